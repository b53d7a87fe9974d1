"""A served model as files: what is written is what is read, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from old_directory import unpack

from pipelines.errors import UnknownNameError
from pipelines.registry import packaging
from pipelines.registry.packaging import (
    KINDS,
    BrokenModelError,
    as_inputs,
    fingerprint,
    outputs_of,
    read_package,
    write_package,
)


class Weights:
    """A model with two files, one of them in a folder."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def predict(self, columns: Any) -> dict[str, Any]:
        return {"score": np.asarray(columns["x"], float) * self.factor}

    def save(self, folder: Path) -> None:
        (folder / "parts").mkdir()
        (folder / "parts" / "weights.bin").write_bytes(np.float64(self.factor).tobytes())
        (folder / "config.json").write_text("{}")

    @classmethod
    def load(cls, folder: Path) -> Weights:
        return cls(float(np.frombuffer((folder / "parts" / "weights.bin").read_bytes())[0]))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(KINDS, "test/weights", f"{__name__}:Weights")  # type: ignore[arg-type]
    folder = tmp_path / "package"
    write_package(Weights(3.0), "test/weights", folder)
    return folder


def test_a_model_answers_the_same_after_saving_and_loading(package: Path) -> None:
    """The whole of what predicting needs is in the folder."""
    assert read_package(package).predict({"x": [1.0, 2.0]})["score"].tolist() == [3.0, 6.0]


def test_the_description_lists_every_file(package: Path) -> None:
    """Those in folders too."""
    described = json.loads((package / "model.json").read_text())
    assert described["kind"] == "test/weights"
    assert set(described["files"]) == {"config.json", "parts/weights.bin"}


@pytest.mark.parametrize("name", ["config.json", "parts/weights.bin"])
@pytest.mark.parametrize("damage", [b"", b"1234567"])
def test_a_truncated_or_altered_file_is_refused(package: Path, name: str, damage: bytes) -> None:
    """Before anything of it is read as a model."""
    (package / name).write_bytes(damage)
    with pytest.raises(BrokenModelError, match=f"{name} is missing, truncated or altered"):
        read_package(package)


def test_a_missing_file_is_refused(package: Path) -> None:
    """With its name."""
    (package / "config.json").unlink()
    with pytest.raises(BrokenModelError, match=r"config\.json is missing"):
        read_package(package)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "test/weights"}', "\x00"])
def test_a_damaged_description_is_refused(package: Path, text: str) -> None:
    """Whatever it holds instead."""
    (package / "model.json").write_text(text)
    with pytest.raises(BrokenModelError, match="is missing or damaged"):
        read_package(package)


def test_an_unknown_kind_is_refused(package: Path, tmp_path: Path) -> None:
    """On writing it is the caller's mistake, on reading the file's."""
    with pytest.raises(UnknownNameError, match="there is no kind of model 'nosuch'"):
        write_package(Weights(1.0), "nosuch", tmp_path / "other")
    (package / "model.json").write_text('{"kind": "nosuch", "files": {}}')
    with pytest.raises(BrokenModelError, match="of kind 'nosuch', which is not known here"):
        read_package(package)


@pytest.mark.parametrize(
    "where", ["nosuch_module:Weights", f"{__name__}:Nosuch", "builtins:KeyError"]
)
def test_a_kind_that_does_not_load_is_told_in_one_line(
    package: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A library that is not installed, code that has moved: no traceback of somebody else's."""
    monkeypatch.setitem(packaging.KINDS, "test/weights", where)  # type: ignore[arg-type]
    with pytest.raises(BrokenModelError, match="does not load") as raised:
        read_package(package)
    assert len(str(raised.value).splitlines()) == 1


def test_the_fingerprint_stands_for_every_file(package: Path, tmp_path: Path) -> None:
    """Equal for equal models, another for another weight; a missing description has none."""
    write_package(Weights(3.0), "test/weights", tmp_path / "same")
    write_package(Weights(4.0), "test/weights", tmp_path / "other")
    assert fingerprint(package) == fingerprint(tmp_path / "same")
    assert fingerprint(package) != fingerprint(tmp_path / "other")
    with pytest.raises(BrokenModelError, match="is missing"):
        fingerprint(tmp_path)


def test_inputs_become_plain_values() -> None:
    """Arrays, series and arrays within lists, as JSON would hold them."""
    frame = pd.DataFrame({"n": [1, 2], "lists": [np.array([1.0]), None]})
    found = as_inputs({"n": frame["n"], "lists": frame["lists"], "a": np.array([1.5, 2.5])})
    assert found == {"n": [1, 2], "lists": [[1.0], None], "a": [1.5, 2.5]}


def test_an_output_of_another_length_is_refused(package: Path) -> None:
    """A row that nothing was predicted for must not pass unseen."""

    class Short:
        def predict(self, columns: Any) -> dict[str, Any]:
            assert columns
            return {"score": np.zeros(1)}

    assert outputs_of(read_package(package), {"x": [1.0]})["score"].tolist() == [3.0]
    with pytest.raises(BrokenModelError, match="'score' has 1 values for 2 rows"):
        outputs_of(Short(), {"x": [1.0, 2.0]})


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages that an earlier version has written, see tests/fixtures."""
    folder = tmp_path_factory.mktemp("packages")
    unpack(folder, "packages")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_of_an_earlier_version_answers_as_it_did(older: Path, kind: str) -> None:
    """A package names its kind, not a module: that its class has moved does not matter."""
    example = json.loads((older / f"{kind}.json").read_text())
    found = outputs_of(read_package(older / kind), example["asked"])
    assert found.keys() == example["answered"].keys()
    for name, values in example["answered"].items():
        if isinstance(values[0], str):
            assert found[name].tolist() == values
        else:
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)
