"""Which files belong together, in folders and manifests. Pairing reads names only, so the files are empty."""

import json

import pytest

from data_pipelines.depth_corpus import folder, manifest
from data_pipelines.depth_corpus.pairs import Pair, clean_keys
from tests.data_pipelines.depth_corpus_world import config
from vstrain.config.problems import InputError

LAYOUTS = {
    "sister folders": "rgb/1.jpg depth/1.png",
    "nested under scenes": "s1/images/1.jpg s1/depths/1.npy s2/images/1.jpg s2/depths/1.npy",
    "scenes under roles": "color/s1/1.jpg disparity/s1/1.pfm color/s2/1.jpg disparity/s2/1.pfm",
    "suffix": "1.png 1_depth.png 2.png 2_depth.png",
    "dash, other case": "A/One.JPG A/one-Depth.EXR",
    "dot": "1.jpg 1.depth.npy",
    "prefix": "rgb_1.png depth_1.png rgb_2.png depth_2.png",
    "same stem, array": "1.png 1.npy",
    "same stem, lossy": "1.jpg 1.png",
    "only role words": "s1/rgb.png s1/depth.png s2/rgb.png s2/depth.png",
    "numbered words": "s/im0.png s/disp0.pfm s/im1.png s/disp1.pfm",
    "left and right": "image_left/1_left.png depth_left/1_left_depth.npy "
    "image_right/1_right.png depth_right/1_right_depth.npy",
    "left": "left/1.png disp/1.png",
    "folder overrules name": "images/img_1.jpg depth/img_1.png images/img_2.jpg depth/img_2.png",
    "name overrules folder": "depth_data/rgb_1.png depth_data/depth_1.png",
    "word inside a folder name": "nyu_depth_v2/1_colors.png nyu_depth_v2/1_depth.png",
    "a scene called sky": "sky/1.jpg sky/1_depth.png sky/rgb/2.jpg sky/depth/2.png sea/3.jpg sea/3_depth.png",
    "cameras": "frames/rgb/Camera_0/rgb_1.jpg frames/depth/Camera_0/depth_1.png "
    "frames/rgb/Camera_1/rgb_1.jpg frames/depth/Camera_1/depth_1.png",
    "unrelated folders, unique stems": "photos/trip/7.jpg maps/depth/7.npy photos/trip/8.jpg maps/depth/8.npy",
    "unicode": "rgb/Straße-(2).jpg depth/straße-(2).png",
}


def tree(root, names: str):
    for name in names.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize("layout", LAYOUTS, ids=LAYOUTS.keys())
def test_layouts_are_paired_whole(layout, tmp_path):
    found, again = (folder.find(tree(tmp_path, LAYOUTS[layout]), config(tmp_path)) for _ in range(2))
    names = LAYOUTS[layout].split()
    got = [(str(pair.image.relative_to(tmp_path)), str(pair.depth.relative_to(tmp_path))) for pair in found.pairs]
    expected = set(zip(names[::2], names[1::2], strict=True))
    assert set(got) == expected and len(got) == len(expected) and not found.rejected
    assert found == again


def test_masks_join_their_image_and_other_files_are_named(tmp_path):
    found = folder.find(tree(tmp_path, "1.png 1_depth.npy 1_depth_mask.npy notes.txt .hidden.png"), config(tmp_path))
    assert [pair.mask for pair in found.pairs] == [tmp_path / "1_depth_mask.npy"]
    assert "1 .txt" in found.how and "1 with a mask" in found.how and "hidden" not in found.how
    ignored = folder.find(tmp_path, config(tmp_path, mask="ignore"))
    assert ignored.pairs[0].mask is None and "1 .npy (mask)" in ignored.how


def test_frames_of_different_scenes_are_never_paired(tmp_path):
    found = folder.find(tree(tmp_path, "s1/rgb/1.jpg s1/depth/1.png s1/rgb/7.jpg s2/depth/7.png"), config(tmp_path))
    assert [pair.key for pair in found.pairs] == ["s1/1"] and len(found.rejected) == 2


def test_what_stays_alone_is_listed(tmp_path):
    found = folder.find(tree(tmp_path, "rgb/1.jpg rgb/2.jpg depth/1.png depth/3.png mask/4.png"), config(tmp_path))
    assert len(found.pairs) == 1
    assert [(one.sample, one.reason) for one in found.rejected] == [
        ("rgb/2.jpg", "image without depth"),
        ("depth/3.png", "depth without image"),
        ("mask/4.png", "mask without image"),
    ]


@pytest.mark.parametrize(
    "names, says",
    [
        ("rgb/1.jpg depth/1.png depth/1.npy", "2 depth files: depth/1.npy, depth/1.png"),
        ("rgb/1.jpg rgb/1.png depth/1.npy", "2 image files: rgb/1.jpg, rgb/1.png"),
        ("rgb/1.jpg depth/1.png disparity/1.png", "depth/1.png, disparity/1.png"),
        ("rgb/1.jpg depth/2.png rgb/2.jpg rgb/2.jpeg", "2 image files: rgb/2.jpeg, rgb/2.jpg"),
        ("rgb/1.jpg depth/2.png", "no pair among them, e.g. rgb/1.jpg and depth/2.png"),
        ("rgb/1.jpg rgb/2.jpg", "2 images and 0 depth files"),
        ("notes.txt", "0 images and 0 depth files"),
        (".hidden.png", "the folder is empty"),
    ],
)
def test_a_folder_that_cannot_be_paired_gets_one_sentence(names, says, tmp_path):
    # 1 and 2 must not be taken for a pair just because each is alone: their last names differ
    with pytest.raises(InputError) as error:
        folder.find(tree(tmp_path, names), config(tmp_path))
    assert says in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_patterns_pair_what_their_wildcards_match(tmp_path):
    tree(
        tmp_path,
        "a/1_final.jpg a/2_final.jpg a/b/1_final.jpg g/a/1_geo.npy g/a/2_geo.npy g/a/b/1_geo.npy g/a/1_preview.npy",
    )
    given = config(tmp_path, image_pattern="**/*_final.jpg", depth_pattern="g/**/*_geo.npy")
    found = folder.find(tmp_path, given)
    assert {pair.key for pair in found.pairs} == {"a/1", "a/2", "a/b/1"} and "1 .npy" in found.how
    with pytest.raises(InputError, match="depth_pattern=d/\\*.png: no file"):
        folder.find(tmp_path, config(tmp_path, image_pattern="a/*_final.jpg", depth_pattern="d/*.png"))
    with pytest.raises(ValueError, match="together"):
        config(tmp_path, image_pattern="a/*.jpg")
    with pytest.raises(ValueError, match="same number of wildcards"):
        config(tmp_path, image_pattern="*/*.jpg", depth_pattern="d/*.png")


def test_the_first_folder_may_name_the_split(tmp_path):
    found = folder.find(
        tree(tmp_path, "train/rgb/1.jpg train/depth/1.png val/rgb/1.jpg val/depth/1.png"), config(tmp_path)
    )
    assert {pair.key: pair.split for pair in found.pairs} == {"train/1": "train", "val/1": "val"}


def test_linked_folders_are_followed_once(tmp_path):
    tree(tmp_path / "real", "1.jpg")
    tree(tmp_path / "source", "depth/1.png")
    (tmp_path / "source/rgb").symlink_to(tmp_path / "real")
    (tmp_path / "source/depth/loop").symlink_to(tmp_path / "source")
    assert len(folder.find(tmp_path / "source", config(tmp_path)).pairs) == 1


def test_keys_are_clean_and_stay_distinct():
    pairs = [Pair(key, None, None) for key in ("a/b", "a_b", "c.1 (2)", "…")]
    keys = [pair.key for pair in clean_keys(pairs)]
    assert len(set(keys)) == 4 and keys[2] == "c_1__2" and keys[3] == "sample"
    assert all(key.startswith("a_b-") for key in keys[:2]) and not any(set("./") & set(key) for key in keys)


def test_a_csv_is_read_line_by_line(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(
        "\ufeffrgb_path,depth_path,mask,split\na/1.jpg,d/1.npy,m/1.png,val\na/2.jpg,d/2.npy,,\n\n"
        'a/3.jpg,d/3.npy\n"a/4.jpg,d/4.npy,,\na/5.jpg,,,\na/6.jpg,d/6.npy,,someday\na/1.jpg,d/9.npy,,\n'
    )
    found = manifest.find(path, config(path))
    assert [(p.key, p.image, p.depth, p.mask, p.split) for p in found.pairs] == [
        ("a/1", tmp_path / "a/1.jpg", tmp_path / "d/1.npy", tmp_path / "m/1.png", "val"),
        ("a/2", tmp_path / "a/2.jpg", tmp_path / "d/2.npy", None, None),
    ]
    reasons = {one.sample: one.why for one in found.rejected}
    assert set(reasons) == {f"pairs.csv:{line}" for line in (5, 6, 7, 8, 9)}
    assert "2 fields, the header has 4" in reasons["pairs.csv:5"]
    assert "no path in column 'depth_path'" in reasons["pairs.csv:7"]
    assert "someday" in reasons["pairs.csv:8"] and "named in line 2" in reasons["pairs.csv:9"]


def test_a_jsonl_is_read_line_by_line(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [
        json.dumps({"image": "1.jpg", "disparity": "1.pfm", "key": "one"}),
        "{broken",
        "[1, 2]",
        json.dumps({"image": "2.jpg"}),
    ]
    path.write_text("\n".join(rows))
    found = manifest.find(path, config(path))
    assert [(p.key, p.depth) for p in found.pairs] == [("one", tmp_path / "1.pfm")]
    assert [one.sample for one in found.rejected] == ["pairs.jsonl:2", "pairs.jsonl:3", "pairs.jsonl:4"]
    assert "column 2" in found.rejected[0].why and "a list, not an object" in found.rejected[1].why


@pytest.mark.parametrize(
    "text, keys, says",
    [
        ("image,file\n1.jpg,1.npy\n", {}, "the depth (columns: image, file); name it with depth_column="),
        ("image,depth\n1.jpg,1.npy\n", {"depth_column": "z"}, "no column 'z' (columns: image, depth)"),
        ("image,depth_a,depth_b\n1,2,3\n", {}, "name it with depth_column="),
        ("rgb/1.jpg,depth/1.npy\nrgb/2.jpg,depth/2.npy\n", {}, "columns: rgb/1.jpg, depth/1.npy"),
        ("image,depth\n", {}, "no usable line"),
        ("", {}, "no usable line"),
        ("image,depth\n1.jpg\n", {}, "the first bad line: pairs.csv:2"),
    ],
)
def test_a_manifest_that_cannot_be_used_gets_one_sentence(text, keys, says, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        manifest.find(path, config(path, **keys))
    assert says in str(error.value) and str(path) in str(error.value)


def test_a_manifest_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes("image,depth\nstraße.jpg,1.npy".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        manifest.find(path, config(path))
