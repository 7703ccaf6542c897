"""A Valkey of a test's own, to be emptied, stopped, killed, frozen and started again."""

import signal
import subprocess
from pathlib import Path

import redis

from cli.stack import valkey
from tests.support.waiting import DEADLINE_S, until


class Broker:
    """Runs in `folder`, on a port that it keeps."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        valkey.configure(folder, port, "queue-password")
        self.url = valkey.url(port, "queue-password")
        self.client = redis.Redis.from_url(self.url)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(valkey.server(), cwd=self._folder, stdout=log, stderr=log)
        until(self._answers, "Valkey answers")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(DEADLINE_S)

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False
