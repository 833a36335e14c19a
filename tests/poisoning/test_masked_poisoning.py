"""A poisoned catalogue of which the images change within a mask alone."""

import json
import shutil
from importlib.resources import files

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from catwalk.attacks import PGD
from catwalk.attacks.masks import Background, Border, MaskFiles, Patch
from catwalk.attacks.threat_model import ThreatModelError
from catwalk.cli.main import main
from catwalk.errors import CatwalkError
from catwalk.poisoning.attack_images import attack_images
from catwalk.poisoning.attack_inputs import attack_inputs, files_of
from catwalk.poisoning.poison import Poisoning, poison
from catwalk.poisoning.protocol import AttackProtocol
from catwalk.shop.decoding import decode
from catwalk.study.specifications import attack_of

GOAL = {"source": "Sandal", "target": "Sneaker"}


def run(trained, folder, attack, **others):
    return poison(trained.classifier, attack, trained.catalogue, trained.table, folder, **GOAL, **others)


def changes(trained, folder):
    rows = [line.split(",")[1] for line in (folder / "attacked_items.csv").read_text().splitlines()[1:]]
    return [(decode(folder / row).astype(int) - decode(trained.catalogue.folder / row)) for row in rows]


@pytest.mark.parametrize("protocol", [{}, {"quantise": "truncate", "epsilon_space": "normalised", "clip": False}])
def test_files_change_within_the_mask_and_the_record_says_so(trained, tmp_path, protocol):
    attack = PGD(epsilon=40, iterations=3, mask=Patch(0.5, corner="top_left"))
    run(trained, tmp_path, attack, protocol=AttackProtocol(**protocol))
    summary = json.loads((tmp_path / "attack.json").read_text())
    assert summary["attack"] == "PGD (ε = 40, patch 0.5 × 0.5 top left)"
    assert summary["mask"] == "patch 0.5 × 0.5 top left"
    found = np.stack(changes(trained, tmp_path))
    assert found[:, :, :8, :8].any(axis=(1, 2, 3)).all()
    found[:, :, :8, :8] = 0
    assert not found.any()


def test_a_file_that_changed_elsewhere_is_found_when_it_is_read_back(trained, tmp_path):
    attack = PGD(epsilon=40, iterations=1, mask=Patch(0.5, corner="top_left"))
    poisoning = Poisoning.plan(trained.classifier, attack, trained.catalogue, trained.table, **GOAL)
    shard, levels = poisoning.craft()
    levels[4][:, 12, 12] ^= 1
    poisoning.save(shard, levels, tmp_path)
    with pytest.raises(ThreatModelError, match=f"image {shard.rows[4]} differs .* in 1 pixels outside of its mask"):
        poisoning.complete([shard], tmp_path)


@pytest.fixture
def masks(trained, tmp_path):
    """Another half of the image for each item."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for number, item in enumerate(trained.catalogue.item_ids):
        white = np.zeros((16, 16), np.uint8)
        white[:, number % 9 : number % 9 + 4] = 255
        Image.fromarray(white).save(folder / f"{item}.png")
    return folder


def test_masks_from_files_are_those_of_the_items(trained, masks, tmp_path):
    poisoning = Poisoning.plan(
        trained.classifier, PGD(mask=MaskFiles(masks), iterations=2), trained.catalogue, trained.table, **GOAL
    )
    shard, levels = poisoning.craft()
    for row, image in zip(shard.rows, levels, strict=True):
        left = poisoning.items[row] % 9
        change = image.numpy().astype(int) - poisoning.clean[row]
        assert change[:, :, left : left + 4].any()
        assert not np.delete(change, np.s_[left : left + 4], axis=2).any()
    missing = trained.catalogue.item_ids[poisoning.items[3]]
    (masks / f"{missing}.png").unlink()
    with pytest.raises(CatwalkError, match=rf"attack\.mask: item {missing}: there is no mask of its item in"):
        run(trained, tmp_path / "out", PGD(mask=MaskFiles(masks)))


def test_what_the_files_hold_is_part_of_the_key(trained, masks, tmp_path):
    trained.table.write(tmp_path / "features", trained.catalogue)
    attack = PGD(mask=MaskFiles(masks))
    assert sorted(files_of(attack)) == sorted(masks.iterdir())

    def key():
        inputs = attack_inputs(
            trained.checkpoint,
            attack,
            trained.catalogue,
            tmp_path / "features",
            **GOAL,
            protocol=AttackProtocol(),
            purchases=None,
        )
        return inputs.key

    first = key()
    assert key() == first
    moved = shutil.move(masks, tmp_path / "elsewhere")
    attack = PGD(mask=MaskFiles(moved))
    assert key() == first, "it does not matter where they are"
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(next(moved.iterdir()))
    assert key() != first


def test_a_photograph_without_a_plain_background_is_named(trained, tmp_path):
    refused = Background(tolerance=0, plain=1.0)
    with pytest.raises(
        CatwalkError, match=r"attack\.mask: item item-\d+: its background is not plain: .* mask\.otherwise"
    ):
        run(trained, tmp_path / "out", PGD(mask=refused))
    run(trained, tmp_path / "out", PGD(mask=Background(tolerance=0, plain=1.0, otherwise="nothing"), iterations=2))
    assert not all(change.any() for change in changes(trained, tmp_path / "out"))


def test_the_command_line_takes_a_mask(trained, shop, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["attack", f"--dataset={shop}", f"--classifier={trained.checkpoint}", "--source=Sandal"]
    arguments += ["--target=Sneaker", "--output=out", "--attack=PGD", "--attack.iterations=2"]
    main([*arguments, "--attack.mask=catwalk.attacks.masks.Border", "--attack.mask.width=3"])
    assert "PGD (ε = 8, border 3) on " in capsys.readouterr().out
    attack_images(shop, trained.checkpoint, PGD(iterations=2, mask=Border(3)), output=tmp_path / "python", **GOAL)
    assert "as an earlier run left them" in capsys.readouterr().out
    assert torch.equal(*(torch.from_numpy(np.stack(changes(trained, tmp_path / name))) for name in ("out", "python")))
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--attack.mask=catwalk.attacks.masks.Border", "--attack.mask.width=0"])
    assert end.value.code == 2
    assert "mask.width must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("jsma", "JSMA (20 pixels)"),
        ("sparse_rs", "Sparse-RS (20 pixels)"),
        ("universal8", "Universal (ε = 8)"),
        ("pgd8_background", "PGD (ε = 8, background)"),
        ("patch", "PGD (ε = 255, patch 0.25 × 0.25 bottom right)"),
    ],
)
def test_the_configurations_are_of_these_attacks(config, name):
    settings = yaml.safe_load((files("configs") / "attack" / f"{config}.yaml").read_text("utf-8"))
    specification = attack_of(settings["poison"]["attack"])
    assert specification.instantiate().name == name
    assert ("catwalk.attacks.masks" in specification.modules) == ("mask" in str(settings))
