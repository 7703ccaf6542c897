"""Hashes in the graph against the package mmh3, on thousands of texts of all scripts."""

import mmh3
import numpy as np
import onnxruntime as ort
import spox
from spox import Tensor, argument

from services.trainer.transform import hashing


def random_texts(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    alphabet = list("abcXYZ019 :;|,-_/\\\"'\x1f\t\néß日本🛫\u202e\x00")
    texts = ["".join(rng.choice(alphabet, rng.integers(0, 12))) for _ in range(count)]
    return np.array(["", ":", "::", *texts], dtype=object)


def reference(*texts: str) -> int:
    joined = texts[0]
    for text in texts[1:]:
        joined = f"{mmh3.hash(joined, signed=False)}:{text}"
    return mmh3.hash(joined, signed=False)


def test_murmur_equals_mmh3() -> None:
    text = argument(Tensor(np.str_, ("n",)))
    model = spox.build({"text": text}, {"hash": hashing.murmur(text), "bucket": hashing.buckets(text, 97)})
    texts = random_texts(4_000, 1)
    found, bucket = ort.InferenceSession(model.SerializeToString()).run(["hash", "bucket"], {"text": texts})
    wanted = np.array([reference(one) for one in texts])
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(bucket, wanted % 97)


def test_joined_texts_equal_the_chain_of_hashes() -> None:
    parts = {name: argument(Tensor(np.str_, ("n",))) for name in "abc"}
    model = spox.build(parts, {"hash": hashing.murmur(hashing.joined(list(parts.values())))})
    texts = {name: random_texts(3_000, seed) for seed, name in enumerate(parts)}
    (found,) = ort.InferenceSession(model.SerializeToString()).run(["hash"], texts)
    np.testing.assert_array_equal(found, [reference(*row) for row in zip(*texts.values(), strict=True)])


def test_moving_text_across_the_border_changes_the_joined_text() -> None:
    parts = {name: argument(Tensor(np.str_, ("n",))) for name in "ab"}
    model = spox.build(parts, {"joined": hashing.joined(list(parts.values()))})
    a = np.array(["a", "ab", "", "a:", "a", "a:b"], dtype=object)
    b = np.array(["bc", "c", "abc", "b", ":b", ""], dtype=object)
    (joined,) = ort.InferenceSession(model.SerializeToString()).run(["joined"], {"a": a, "b": b})
    assert len(set(joined)) == len(a)
