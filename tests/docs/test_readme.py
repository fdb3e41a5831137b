"""The README's commands run, in its order, at a size of seconds; its links and verbs exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import TINY, command
from vstrain.cli import VERBS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("vstrain ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's folder: photos/ with one photo, rgbd/ with twelve images and 16-bit depth in millimetres."""
    home = tmp_path_factory.mktemp("user")
    rng = np.random.default_rng(0)
    (home / "photos").mkdir()
    cv2.imwrite(str(home / "photos" / "cat.jpg"), rng.integers(0, 256, (90, 140, 3), dtype=np.uint8))
    for name in ("rgb", "depth"):
        (home / "rgbd" / name).mkdir(parents=True)
    for n in range(12):
        cv2.imwrite(str(home / "rgbd" / "rgb" / f"{n:03d}.jpg"), rng.integers(0, 256, (140, 150, 3), dtype=np.uint8))
        depth = rng.integers(500, 9000, (140, 150), dtype=np.uint16)
        cv2.imwrite(str(home / "rgbd" / "depth" / f"{n:03d}.png"), depth)
    return home


def run_dir(home: Path) -> str:
    """The README's RUN_DIR: the newest finished training run."""
    return str(max((home / "runs" / "depth_teacher").iterdir(), key=lambda path: path.stat().st_mtime))


@pytest.mark.parametrize("line", COMMANDS)
def test_command(line, folder):
    """In file order: later commands use the run and the shards of earlier ones."""
    shards = folder / "data" / "rgbd"
    line = line.replace("FOLDER_OF_SHARDS", str(shards)).replace("PHOTO_OR_FOLDER", "photos")
    line = line.replace("PICTURES/", f"{folder}/data/procedural/depth-*/val-")
    line = line.replace("source=FOLDER", "source=rgbd val_fraction=0.3")
    words = shlex.split(line)[1:]
    if "RUN_DIR" in line:
        words = [word.replace("RUN_DIR", run_dir(folder)) for word in words]
    if any(word.startswith("experiment=") for word in words) and words[0] != "plan":
        given = {word.partition("=")[0] for word in words}
        words += [word for word in TINY if word.partition("=")[0] not in given - {"trainer.max_steps"}]
    full, env = command(*words)
    done = subprocess.run(full, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def test_the_blocks_were_found():
    assert len(COMMANDS) >= 12 and "make demo" in LINES and "make test" in LINES


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for line in LINES:
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line


def test_every_verb_is_in_the_table():
    assert set(VERBS) == set(re.findall(r"^\| `(\w+)`", README, re.MULTILINE)) - {"strategy"}


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", *(f"docs/{page.name}" for page in ROOT.glob("docs/*.md"))]
)
def test_links_and_named_files_exist(document):
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert ((ROOT / document).parent / target).exists(), target


def test_architecture_names_real_files():
    text = (ROOT / "docs" / "architecture.md").read_text()
    for name in re.findall(r"`((?:data|engine|config|verbs|launch|systems|vstrain)/[\w/]+\.py)`", text):
        assert (ROOT / name).exists() or (ROOT / "vstrain" / name).exists(), name
