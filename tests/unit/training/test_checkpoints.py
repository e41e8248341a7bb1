"""Resume checkpoints: what was saved comes back bit for bit, and nothing else ever does."""

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ns_core.errors import StageFailed
from ns_core.resume import ResumeFolder
from ns_core.storage import Storage, open_storage
from ns_core.storage.local import LocalStorage
from ns_core.training.checkpoints import Checkpoints
from ns_core.training.optimizers import optimizer_tensors

FINGERPRINT = "a" * 64
SEEN: dict[str, Any] = {"losses": [0.1, 2.0 / 3.0], "note": "ü\n", "nested": {"none": None, "yes": True}}


def _folder(root: Path, storage: Storage | None = None) -> ResumeFolder:
    """The resume folder of one more attempt."""
    scratch = root / f"scratch-{sum(1 for _ in root.glob('scratch-*'))}"
    scratch.mkdir(parents=True)
    return ResumeFolder(storage or open_storage(str(root / "store")), "stage/resume", scratch)


def _checkpoints(root: Path, keep: int = 2, fingerprint: str = FINGERPRINT) -> Checkpoints:
    return Checkpoints(_folder(root), fingerprint, keep)


def _tensors(step: int, numbers: int = 100) -> dict[str, Tensor]:
    """What a checkpoint of `step` holds in these tests."""
    generator = torch.Generator().manual_seed(step)
    return {"weights": torch.randn(numbers, generator=generator), "counter": torch.tensor(step)}


def _save_all(root: Path, *steps: int, keep: int = 2) -> None:
    checkpoints = _checkpoints(root, keep)
    for step in steps:
        checkpoints.save(step, _tensors(step), {**SEEN, "step": step})
    checkpoints.close()


def _loaded_step(root: Path) -> int | None:
    """Step of the checkpoint that the next attempt gets, after a look at all of it."""
    found = _checkpoints(root).load()
    if found is None:
        return None
    tensors, document = found
    step = document["step"]
    assert document == {**SEEN, "step": step}
    _assert_same(tensors, _tensors(step, len(tensors["weights"])))
    assert isinstance(step, int)
    return step


def _assert_same(found: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    assert found.keys() == saved.keys()
    for name, tensor in saved.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert torch.equal(found[name], tensor), name


def _files(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("store/stage/resume/*") if not path.name.startswith(".tmp-"))


def _committed(root: Path) -> list[int]:
    """Steps whose JSON is there."""
    return [int(name[5:13]) for name in _files(root) if name.endswith(".json")]


def _file(root: Path, step: int, kind: str) -> Path:
    return root / f"store/stage/resume/step-{step:08d}.{kind}"


def test_every_kind_of_tensor_comes_back_bit_for_bit(tmp_path: Path) -> None:
    base = torch.arange(24.0)
    saved = {
        "bfloat16": torch.randn(5, 3).bfloat16(),
        "float16": torch.randn(5).half(),
        "float64": torch.randn(2, dtype=torch.float64) / 3,
        "int64": torch.tensor([2**62 + 1, -1]),
        "bool": torch.tensor([True, False, True]),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 3),
        "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "transposed": torch.randn(3, 4).T,
        "alias": base,
        "same alias": base,
        "part of alias": base[3:9],
        "expanded": torch.ones(1).expand(6),
        "parameter": nn.Parameter(torch.randn(3)),
        "odd": torch.tensor([-3e38, -0.0, 1e-45]),
    }
    checkpoints = _checkpoints(tmp_path)
    checkpoints.save(3, saved, SEEN)
    checkpoints.close()
    found = _checkpoints(tmp_path).load()
    assert found is not None
    _assert_same(found[0], saved)
    assert found[1] == SEEN
    assert torch.signbit(found[0]["odd"]).tolist() == [True, True, False]


def test_the_steps_and_moments_of_adam_come_back_bit_for_bit(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(network.named_parameters(), lr=0.1)
    for _ in range(3):
        network(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    state = {**network.state_dict(), **optimizer_tensors(optimizer)}
    assert state["0.weight/step"].item() == 3
    checkpoints = _checkpoints(tmp_path)
    checkpoints.save(3, state, {})
    found = checkpoints.load()
    assert found is not None
    _assert_same(found[0], state)
    checkpoints.close()


def test_loaded_tensors_can_be_written_to(tmp_path: Path) -> None:
    _save_all(tmp_path, 1)
    found = _checkpoints(tmp_path).load()
    assert found is not None
    found[0]["weights"].add_(1)
    assert torch.equal(found[0]["weights"], _tensors(1)["weights"] + 1)
    assert _loaded_step(tmp_path) == 1


def test_what_changes_after_save_returned_is_not_in_the_checkpoint(tmp_path: Path) -> None:
    """The store waits until both were changed."""
    changed = threading.Event()
    folder = _folder(tmp_path, _Store(tmp_path, lambda _: changed.wait(30)))
    tensors, document = _tensors(5), {**SEEN, "step": 5, "losses": list(SEEN["losses"])}
    checkpoints = Checkpoints(folder, FINGERPRINT, 2)
    checkpoints.save(5, tensors, document)
    for tensor in tensors.values():
        tensor.zero_()
    document["losses"].append(9.0)
    assert not _file(tmp_path, 5, "json").exists()
    changed.set()
    checkpoints.close()
    assert _loaded_step(tmp_path) == 5


def test_a_save_waits_for_the_one_before_it_and_both_are_right(tmp_path: Path) -> None:
    """The second is copied into the memory of the first."""
    checkpoints = _checkpoints(tmp_path, keep=9)
    tensors = {"weights": torch.zeros(1 << 20), "grows": torch.zeros(0)}
    for step in range(1, 6):
        tensors["weights"].fill_(step)
        tensors["grows"] = torch.full((step,), step)
        checkpoints.save(step, tensors, {"step": step})
    checkpoints.close()
    for step in range(5, 0, -1):
        found = _checkpoints(tmp_path).load()
        assert found is not None
        assert found[1] == {"step": step}
        _assert_same(found[0], {"weights": torch.full((1 << 20,), float(step)), "grows": torch.full((step,), step)})
        _file(tmp_path, step, "json").unlink()


def test_the_newest_are_kept_and_the_others_gone_with_both_files(tmp_path: Path) -> None:
    _save_all(tmp_path, 1, 20, 300, 4000)
    assert _files(tmp_path) == [f"step-{step:08d}.{kind}" for step in (300, 4000) for kind in ("json", "safetensors")]
    assert _loaded_step(tmp_path) == 4000
    _save_all(tmp_path, 5000, keep=1)
    assert _files(tmp_path) == ["step-00005000.json", "step-00005000.safetensors"]


def test_without_a_save_there_is_no_thread_and_no_file(tmp_path: Path) -> None:
    threads = threading.active_count()
    checkpoints = _checkpoints(tmp_path)
    assert checkpoints.load() is None
    checkpoints.close()
    assert threading.active_count() == threads
    assert not (tmp_path / "store").exists()


def test_tensors_that_were_never_committed_go_once_a_newer_checkpoint_is_and_not_before(tmp_path: Path) -> None:
    """Newer ones may be those of another attempt, which is about to commit them."""
    _save_all(tmp_path, 10, 20)
    for step in (10, 20):
        _file(tmp_path, step, "json").unlink()
    _save_all(tmp_path, 15)
    assert _files(tmp_path) == ["step-00000015.json", "step-00000015.safetensors", "step-00000020.safetensors"]
    _save_all(tmp_path, 25)
    assert _committed(tmp_path) == [15, 25]
    assert len(_files(tmp_path)) == 4


def test_other_files_of_the_folder_stay(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    for name in ("step-1.json", "part-00000001.safetensors", "step-00000001.txt"):
        folder.save(name, lambda path: path.write_bytes(b"x"))
    _save_all(tmp_path, 5, 6, 7, keep=1)
    assert len(_files(tmp_path)) == 5


def test_a_document_that_is_no_json_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        _checkpoints(tmp_path).save(1, {}, {"path": tmp_path})  # type: ignore[dict-item]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path) -> None:
    path.write_bytes(b"\x00garbage\xff" * 40)


def _another_json(path: Path) -> None:
    path.write_text('{"body": 3, "sha256": []}', encoding="utf-8")


def _of_another_step(path: Path) -> None:
    shutil.copy(_file(path.parents[3], 10, path.suffix[1:]), path)


@pytest.mark.parametrize("damage", [_cut, _empty, _garbage, _another_json, _of_another_step, Path.unlink])
@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_after_damage_the_checkpoint_before_is_taken_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, damage: Callable[[Path], None]
) -> None:
    _save_all(tmp_path, 10, 20)
    damage(_file(tmp_path, 20, kind))
    assert _loaded_step(tmp_path) == 10
    uncommitted = kind == "json" and damage is Path.unlink
    assert len(caplog.messages) == (0 if uncommitted else 1)
    assert all("the checkpoint of update 20 is not used: it" in message for message in caplog.messages)
    _cut(_file(tmp_path, 10, kind))
    assert _loaded_step(tmp_path) is None


def test_a_checkpoint_of_another_fingerprint_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _save_all(tmp_path, 10)
    assert _checkpoints(tmp_path, fingerprint="b" * 64).load() is None
    assert "update 10 is not used: it was saved under another fingerprint" in caplog.text


def test_a_checkpoint_under_the_name_of_another_step_is_not_used(tmp_path: Path) -> None:
    _save_all(tmp_path, 10)
    for kind in ("json", "safetensors"):
        shutil.copy(_file(tmp_path, 10, kind), _file(tmp_path, 20, kind))
    assert _loaded_step(tmp_path) == 10
    _file(tmp_path, 10, "json").unlink()
    assert _loaded_step(tmp_path) is None


def test_a_useless_checkpoint_does_not_crowd_out_the_good_ones_and_goes_at_the_next_commit(tmp_path: Path) -> None:
    """It has the highest number: by number alone the newest good one would be deleted instead."""
    _save_all(tmp_path, 10, 20)
    _cut(_file(tmp_path, 20, "safetensors"))
    checkpoints = _checkpoints(tmp_path, keep=1)
    assert checkpoints.load() is not None
    checkpoints.save(15, _tensors(15), {**SEEN, "step": 15})
    checkpoints.close()
    assert _files(tmp_path) == ["step-00000015.json", "step-00000015.safetensors"]
    assert _loaded_step(tmp_path) == 15


def test_a_useless_checkpoint_is_mended_by_saving_its_step_again(tmp_path: Path) -> None:
    _save_all(tmp_path, 10, 20)
    _cut(_file(tmp_path, 20, "json"))
    checkpoints = _checkpoints(tmp_path)
    checkpoints.load()
    checkpoints.save(20, _tensors(20), {**SEEN, "step": 20})
    checkpoints.close()
    assert _loaded_step(tmp_path) == 20


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 10 and 20, each of 488 bytes of tensors and some 300 of JSON."""
    root = tmp_path_factory.mktemp("pair")
    _save_all(root, 10, 20)
    return root


@hypothesis_settings(max_examples=150)
@given(kind=st.sampled_from(["json", "safetensors"]), place=st.floats(0, 1, exclude_max=True), flip=st.integers(0, 255))
def test_whatever_byte_is_flipped_or_wherever_it_is_cut_the_one_before_is_taken(
    pair: Path, kind: str, place: float, flip: int
) -> None:
    """A flip of 0 cuts."""
    path = _file(pair, 20, kind)
    whole = path.read_bytes()
    position = int(place * len(whole))
    changed = whole[:position] + (bytes([whole[position] ^ flip]) + whole[position + 1 :] if flip else b"")
    try:
        path.write_bytes(changed)
        assert _loaded_step(pair) == 10
    finally:
        path.write_bytes(whole)
        for scratch in pair.glob("scratch-*"):
            shutil.rmtree(scratch)


class _Store(LocalStorage):
    """Calls `before` with the name of each operation that changes the store, in the thread that does it."""

    def __init__(self, root: Path, before: Callable[[str], object]) -> None:
        super().__init__(root / "store")
        self._before = before

    def take_file(self, key: str, path: Path) -> None:
        self._before(f"put {key}")
        super().take_file(key, path)

    def delete(self, key: str) -> None:
        self._before(f"delete {key}")
        super().delete(key)


@pytest.mark.parametrize("call", ["load", "save", "close"])
def test_an_error_of_the_thread_is_raised_once_at_the_next_call(tmp_path: Path, call: str) -> None:
    full = [True]

    def before(_: str) -> None:
        if full[0]:
            raise OSError("No space left on device")

    checkpoints = Checkpoints(_folder(tmp_path, _Store(tmp_path, before)), FINGERPRINT, 2)
    checkpoints.save(1, _tensors(1), {**SEEN, "step": 1})
    calls: dict[str, Callable[[], object]] = {
        "load": checkpoints.load,
        "save": lambda: checkpoints.save(2, _tensors(2), {}),
        "close": checkpoints.close,
    }
    with pytest.raises(OSError, match="No space left"):
        calls[call]()
    assert _files(tmp_path) == []
    if call != "close":
        full[0] = False
        checkpoints.save(3, _tensors(3), {**SEEN, "step": 3})
    checkpoints.close()
    assert _loaded_step(tmp_path) == (None if call == "close" else 3)


def _in_a_child(work: Callable[[], None]) -> int | None:
    """Exit status of a process that did `work`; minus the signal that killed it. A fork, since torch takes two
    seconds to import; one compute thread, so that none is lost in it."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    return child.exitcode


def _saves_until_killed(root: Path, operations: int, steps: range) -> Callable[[], None]:
    """Saves one checkpoint after the other; SIGKILL before operation number `operations` on the store."""

    def work() -> None:
        done = 0

        def before(_: str) -> None:
            nonlocal done
            done += 1
            if done > operations:
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoints = Checkpoints(_folder(root, _Store(root, before)), FINGERPRINT, 2)
        for step in steps:
            checkpoints.save(step, _tensors(step), {**SEEN, "step": step})
        checkpoints.close()

    return work


@pytest.mark.parametrize("operations", range(14))
def test_killed_before_any_operation_on_the_store_the_newest_committed_checkpoint_is_found(
    tmp_path: Path, operations: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Steps 1 and 2 are two puts each; from 3 on two puts and two deletions."""
    assert _in_a_child(_saves_until_killed(tmp_path, operations, range(1, 6))) == -signal.SIGKILL
    commits = {0: None, 1: None, 2: 1, 3: 1, 4: 2, 5: 2, 6: 3, 7: 3, 8: 3, 9: 3, 10: 4, 11: 4, 12: 4, 13: 4}
    expected = commits[operations]
    assert _loaded_step(tmp_path) == expected
    assert caplog.messages == []
    assert _in_a_child(_saves_until_killed(tmp_path, 99, range(expected or 1, 8))) == 0
    assert _loaded_step(tmp_path) == 7
    assert len(_files(tmp_path)) == 4


def test_numbers_that_are_not_finite_are_never_a_checkpoint(tmp_path: Path) -> None:
    checkpoints = _checkpoints(tmp_path)
    checkpoints.save(1, {"a": torch.ones(3)}, {})
    checkpoints.save(2, {"a": torch.tensor([1.0, float("nan")])}, {})
    with pytest.raises(StageFailed, match="a is not finite after update 2, which was not saved"):
        checkpoints.close()
    assert _committed(tmp_path) == [1]


@pytest.mark.parametrize("sight", ["scratch-0/saving-*.safetensors", "store/stage/resume/*"])
@pytest.mark.parametrize("commits", [0, 3])
def test_killed_from_outside_while_bytes_are_on_their_way_the_newest_whole_checkpoint_is_found(
    tmp_path: Path, commits: int, sight: str
) -> None:
    """Two megabytes a checkpoint, killed at the sight of a file of the first save after `commits` commits."""

    def work() -> None:
        checkpoints = _checkpoints(tmp_path)
        for step in range(1, 10**6):
            checkpoints.save(step, _tensors(step, 500_000), {**SEEN, "step": step})

    context = multiprocessing.get_context("fork")
    child = context.Process(target=work)
    child.start()
    while max(_committed(tmp_path), default=0) < commits and child.is_alive():
        pass
    while not list(tmp_path.glob(sight)) and child.is_alive():
        pass
    child.kill()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    step = _loaded_step(tmp_path)
    assert step == max(_committed(tmp_path), default=None)
    assert (step or 0) >= commits
