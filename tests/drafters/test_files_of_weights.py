"""Which files of a drafter's folder are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from drafters.checkpoints import load_drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.target import Target
from simulator.errors import InputError
from tests.drafters.test_dialects import Tensors, written
from tests.drafters.test_formats import PUBLISHED, Build, build, publish

__all__ = ["build"]


class TestFilesOfWeights:
    """Which files of a folder are read."""

    @staticmethod
    def folder(build: Build, tmp_path: Path, shards: int) -> tuple[Path, Tensors]:
        name = "EAGLE-3.1"
        tensors = load_file(publish(build(name), PUBLISHED[name], tmp_path / "published") / "model.safetensors")
        return written(tmp_path / "mine", PUBLISHED[name], tensors, shards), tensors

    def test_what_an_index_does_not_name_is_left(self, build: Build, target: Target, tmp_path: Path) -> None:
        folder, tensors = self.folder(build, tmp_path, 2)
        save_file({n: t + 1 for n, t in tensors.items()}, folder / "model-00001-of-00001.safetensors")
        loaded = load_drafter(str(folder), target)
        assert isinstance(loaded, LearnedDrafter)
        assert torch.equal(loaded.state_dict()["norm.weight"], tensors["norm.weight"])

    def test_an_index_and_a_whole_file_that_it_does_not_name(self, build: Build, target: Target, tmp_path: Path) -> None:
        """transformers reads the whole file, vLLM the index's."""
        folder, tensors = self.folder(build, tmp_path, 2)
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(
            InputError, match=r"holds model\.safetensors, and model\.safetensors\.index\.json, which names other"
        ):
            load_drafter(str(folder), target)

    def test_an_index_that_was_left_over(self, build: Build, target: Target, tmp_path: Path) -> None:
        folder, tensors = self.folder(build, tmp_path, 2)
        for shard in folder.glob("model-*"):
            shard.unlink()
        with pytest.raises(InputError, match=r"index\.json names model-00001-of-00002\.safetensors, which is not there"):
            load_drafter(str(folder), target)
        save_file(tensors, folder / "model.safetensors")
        assert load_drafter(str(folder), target).gamma

    def test_one_tensor_in_two_files(self, build: Build, target: Target, tmp_path: Path) -> None:
        folder, tensors = self.folder(build, tmp_path, 1)
        save_file({"norm.weight": tensors["norm.weight"] + 1}, folder / "model_old.safetensors")
        with pytest.raises(InputError, match=r"model\.safetensors and model_old\.safetensors both hold norm\.weight"):
            load_drafter(str(folder), target)

    def test_files_elsewhere_are_not_read(self, build: Build, target: Target, tmp_path: Path) -> None:
        folder, _ = self.folder(build, tmp_path, 2)
        index = {"weight_map": {"norm.weight": "../published/model.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        with pytest.raises(InputError, match="which is no file of its folder"):
            load_drafter(str(folder), target)
