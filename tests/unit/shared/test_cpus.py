"""Cores of this process: control groups of both versions, as a container and as the host see them."""

from pathlib import Path

import pytest

from shared.cpus import UNLIMITED, cgroup_quotas, cpus_within, usable_cpus

V2 = {"proc/self/cgroup": "0::/a/b\n"}
V1 = {"proc/self/cgroup": "12:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n3:cpuset:/docker/x\n0::/\n"}
IN_V1 = "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        pytest.param(V2 | {"sys/fs/cgroup/a/b/cpu.max": "200000 100000\n"}, 2, id="v2"),
        pytest.param(V2 | {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, UNLIMITED, id="v2 without a quota"),
        pytest.param(
            V2 | {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"},
            1.5,
            id="v2, the group above has one",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5, id="v2 in a container"
        ),
        pytest.param(
            V2 | {"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3, id="v2 in a container that is told the host's path"
        ),
        pytest.param(
            V1
            | {
                f"{IN_V1}/docker/x/cpu.cfs_quota_us": "250000\n",
                f"{IN_V1}/docker/x/cpu.cfs_period_us": "100000\n",
                f"{IN_V1}/cpu.cfs_quota_us": "-1\n",
                f"{IN_V1}/cpu.cfs_period_us": "100000\n",
            },
            2.5,
            id="v1",
        ),
        pytest.param(
            V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            4,
            id="v1 in a container",
        ),
        pytest.param(
            V1 | {f"{IN_V1}/cpu.cfs_quota_us": "-1\n", f"{IN_V1}/cpu.cfs_period_us": "100000\n"},
            UNLIMITED,
            id="v1 without a quota",
        ),
        pytest.param(V2 | {"sys/fs/cgroup/a/b/cpu.max": "nonsense"}, UNLIMITED, id="unreadable"),
        pytest.param({}, UNLIMITED, id="no control groups"),
    ],
)
def test_the_smallest_quota_of_all_groups_counts(tmp_path: Path, files: dict[str, str], quota: float) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert min(cgroup_quotas(tmp_path), default=UNLIMITED) == quota
    assert 1 <= usable_cpus(tmp_path) <= max(1, quota)


@pytest.mark.parametrize(
    ("affinity", "quotas", "cpus"),
    [(8, [], 8), (8, [UNLIMITED, 2.0], 2), (2, [16.0], 2), (8, [1.9], 1), (8, [0.2], 1), (64, [3.0, 2.0], 2)],
)
def test_affinity_and_quotas_bound_each_other(affinity: int, quotas: list[float], cpus: int) -> None:
    assert cpus_within(affinity, quotas) == cpus
