"""Archives are written whole or not at all, and read without trusting them."""

import hashlib
import io
import json
import os
import pickle
import stat
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO

from sb3_matrl.files import archive
from sb3_matrl.files.archive import FORMAT_VERSION, read_archive, write_archive
from sb3_matrl.utils.atomic_file import atomic_file

DOCUMENTS = {"model": {"agents": ["b", "a"], "steps": 7, "rate": 0.25, "none": None}}
TENSORS = {"agents/0": {"policy": {"w": th.arange(6.0).reshape(2, 3)}, "optimizer": {"state": {0: {"step": th.tensor(3.0)}}}}}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.zip"
    write_archive(path, DOCUMENTS, TENSORS)
    return path


def is_original(contents):
    documents, tensors = contents
    return (
        documents["model"] == DOCUMENTS["model"]
        and tensors.keys() == TENSORS.keys()
        and th.equal(tensors["agents/0"]["policy"]["w"], TENSORS["agents/0"]["policy"]["w"])
        and th.equal(tensors["agents/0"]["optimizer"]["state"][0]["step"], th.tensor(3.0))
    )


def members_of(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def rewrite(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)


def forge(path, **changed):
    """Change members (None removes one) and give the manifest their right hashes, as an attacker would."""
    members = {name: data for name, data in (members_of(path) | changed).items() if data is not None}
    manifest = json.loads(members["manifest.json"])
    manifest["sha256"] = {k: hashlib.sha256(v).hexdigest() for k, v in members.items() if k != "manifest.json"}
    rewrite(path, members | {"manifest.json": json.dumps(manifest).encode()})


# ---------------------------------------------------------------- round trip


def test_what_was_written_is_read(path):
    assert is_original(read_archive(path))


@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[0-9]{1,2})?", fullmatch=True), st.integers() | st.text(), max_size=3),
    st.lists(st.floats(width=32), max_size=5),
)
@settings(deadline=None, max_examples=25)
def test_any_documents_and_numbers_survive(tmp_path_factory, documents, numbers):
    path = tmp_path_factory.mktemp("archive") / "a.zip"
    write_archive(path, documents, {"t": {"x": th.tensor(numbers), "list": [1, 2.5]}})
    read, tensors = read_archive(path)
    del read["manifest"]
    assert read == documents
    np.testing.assert_array_equal(tensors["t"]["x"], np.array(numbers, np.float32))
    assert tensors["t"]["list"] == [1, 2.5]


def test_the_manifest_says_who_wrote_it(path):
    members = members_of(path)
    manifest = json.loads(members["manifest.json"])
    assert (manifest["format"], manifest["format_version"]) == ("sb3-matrl", FORMAT_VERSION)
    assert manifest["versions"]["torch"] == th.__version__
    assert manifest["sha256"] == {k: hashlib.sha256(v).hexdigest() for k, v in members.items() if k != "manifest.json"}
    assert list(members) == ["manifest.json", "model.json", "agents/0.pt"]


def test_folders_are_made_and_permissions_are_those_of_any_new_file(tmp_path):
    path, plain = tmp_path / "a" / "b" / "model.zip", tmp_path / "plain"
    write_archive(path, DOCUMENTS, {})
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_tensors_are_read_onto_the_cpu(path, monkeypatch):
    asked = {}
    load = th.load
    monkeypatch.setattr(th, "load", lambda *args, **kwargs: asked.update(kwargs) or load(*args, **kwargs))
    read_archive(path)
    assert asked == {"map_location": "cpu", "weights_only": True}


# ---------------------------------------------------------------- all or nothing


def names_in(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_an_archive_replaces_the_one_before(path):
    write_archive(path, {"model": 2}, {})
    assert read_archive(path)[0]["model"] == 2
    assert names_in(path.parent) == ["model.zip"]


@pytest.mark.parametrize("document", [float("nan"), float("inf"), object(), {1, 2}])
def test_documents_that_json_cannot_hold_are_refused_before_anything_is_written(path, document):
    with pytest.raises((ValueError, TypeError)):
        write_archive(path, {"model": document}, {})
    assert is_original(read_archive(path)) and names_in(path.parent) == ["model.zip"]


@pytest.mark.parametrize("broken", ["fsync", "writestr", "replace"])
def test_a_failure_keeps_the_old_file_and_leaves_no_other(path, broken, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    owner = {"fsync": os, "writestr": zipfile.ZipFile, "replace": Path}[broken]
    monkeypatch.setattr(owner, broken, fail)
    with pytest.raises(OSError, match="No space left"):
        write_archive(path, {"model": 2}, {})
    monkeypatch.undo()
    assert is_original(read_archive(path)) and names_in(path.parent) == ["model.zip"]


def test_an_interruption_keeps_the_old_file_and_leaves_no_other(path):
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half of it")
        raise KeyboardInterrupt
    assert is_original(read_archive(path)) and names_in(path.parent) == ["model.zip"]


@pytest.mark.parametrize("size", [3000, 200_000])
def test_a_full_disk_keeps_the_old_file_and_leaves_no_other(path, size):
    # The system's limit on a file's size makes real writes fail: within the buffer (at its flush), or beyond it.
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_archive(path, {"model": "x" * size}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert is_original(read_archive(path)) and names_in(path.parent) == ["model.zip"]


def test_the_file_is_flushed_to_disk_before_it_gets_its_name(path, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: events.append("fsync") or fsync(handle))
    monkeypatch.setattr(Path, "replace", lambda self, target: events.append("rename") or replace(self, target))
    write_archive(path, DOCUMENTS, TENSORS)
    assert events == ["fsync", "rename"]


# ---------------------------------------------------------------- damage


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no saved model at .*nothing\.zip"):
        read_archive(tmp_path / "nothing.zip")
    with pytest.raises(FileNotFoundError):
        read_archive(tmp_path)


def test_models_in_a_folder_are_named_where_the_folder_was_given(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best_model.zip").touch()
    with pytest.raises(FileNotFoundError, match=r"no saved model at .*run\.zip, but .*run is a folder with best_model\.zip"):
        read_archive(tmp_path / "run.zip")


@pytest.mark.parametrize("content", [b"", b"not a zip at all", b"PK\x03\x04" + bytes(50)])
def test_what_is_no_zip_is_said_to_be_none(tmp_path, content):
    path = tmp_path / "model.zip"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.zip is not a saved model, or it is damaged"):
        read_archive(path)


def test_a_truncated_file_is_damaged_wherever_it_ends(path):
    content = path.read_bytes()
    for end in [*range(0, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:end])
        with pytest.raises(ValueError):
            read_archive(path)


def test_a_flipped_bit_is_noticed_or_harmless(path):
    # Some bits, dates for instance, mean nothing to the reader; no flip may change what is read or end in another error.
    content = path.read_bytes()
    noticed = 0
    for position in range(0, len(content), 5):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(bytes(flipped))
        try:
            contents = read_archive(path)
        except ValueError:
            noticed += 1
        else:
            assert is_original(contents), position
    assert noticed > 300


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 99])
def test_a_wrong_compression_method_is_damage(path, method):
    content = bytearray(path.read_bytes())
    start = 0
    while (start := content.find(b"PK\x01\x02", start)) >= 0:  # the entries of the directory
        content[start + 10 : start + 12] = struct.pack("<H", method)
        start += 4
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="damaged"):
        read_archive(path)


def test_flipped_bits_in_every_member_are_found_by_its_hash(path):
    members = members_of(path)
    for name in ("model.json", "agents/0.pt"):
        data = bytearray(members[name])
        data[len(data) // 2] ^= 1
        rewrite(path, members | {name: bytes(data)})
        with pytest.raises(ValueError, match=f"the hash of {name} is wrong"):
            read_archive(path)


@pytest.mark.parametrize("change", [{"model.json": None}, {"agents/0.pt": None}, {"more.json": b"1"}, {"code.py": b"1"}])
def test_missing_and_extra_members_are_damage(path, change):
    members = {name: data for name, data in (members_of(path) | change).items() if data is not None}
    rewrite(path, members)
    with pytest.raises(ValueError, match=r"its members are not those that manifest\.json lists"):
        read_archive(path)


def test_compressed_by_another_tool_it_is_refused(path):
    # Whatever may be larger than the file that it came from could fill the memory.
    rewrite(path, members_of(path), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"model\.zip .*manifest\.json is compressed or encrypted"):
        read_archive(path)


def with_manifest(path, **changes):
    members = members_of(path)
    manifest = json.loads(members["manifest.json"]) | changes
    rewrite(path, members | {"manifest.json": json.dumps(manifest).encode()})


def test_a_newer_format_asks_for_a_newer_library(path):
    with_manifest(path, format_version=FORMAT_VERSION + 1)
    with pytest.raises(ValueError, match=rf"format version {FORMAT_VERSION + 1}, newer than the {FORMAT_VERSION} .*update"):
        read_archive(path)


def test_another_format_is_named(path):
    with_manifest(path, format="someone-else")
    with pytest.raises(ValueError, match="has format 'someone-else', expected 'sb3-matrl'"):
        read_archive(path)


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b"7",
        b"\xff\xfe\xff",
        b'{"format": "sb3-matrl"}',
        b'{"format": "sb3-matrl", "format_version": "new", "sha256": {}}',
        b'{"format": "sb3-matrl", "format_version": null, "sha256": {}}',
        b'{"format": "sb3-matrl", "format_version": Infinity, "sha256": {}}',
        b'{"format": "sb3-matrl", "format_version": 1, "sha256": 5}',
        b'{"format": "sb3-matrl", "format_version": 1, "sha256": "abc"}',
    ],
    ids=range(11),
)
def test_a_senseless_manifest_is_damage(path, manifest):
    rewrite(path, members_of(path) | {"manifest.json": manifest})
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        read_archive(path)


def test_a_document_that_is_no_json_is_an_error(path):
    forge(path, **{"model.json": b"{'single': 'quotes'}"})
    with pytest.raises(ValueError, match="has a member that cannot be read safely"):
        read_archive(path)


# ---------------------------------------------------------------- attacks and mistakes


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def pickled(bomb):
    return pickle.dumps(bomb, protocol=2)


def saved_by_torch(bomb):
    buffer = io.BytesIO()
    th.save({"w": th.ones(2), "bomb": bomb}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [pickled, saved_by_torch])
def test_code_in_a_tensor_member_is_refused_and_not_run(path, pack, tmp_path):
    target = tmp_path / "exploded"
    data = pack(Bomb(target))
    forge(path, **{"agents/0.pt": data})
    with pytest.raises(ValueError, match="has a member that cannot be read safely"):
        read_archive(path)
    assert not target.exists()
    if pack is pickled:  # the bomb does work where pickles are trusted
        pickle.loads(data)
        assert target.exists()


def test_a_file_of_sb3_is_recognised(tmp_path):
    path = tmp_path / "ppo.zip"
    PPO("MlpPolicy", "CartPole-v1", device="cpu", policy_kwargs={"net_arch": [4]}).save(path)
    with pytest.raises(ValueError, match="it is a Stable-Baselines3 file: load it with the class that saved it"):
        read_archive(path)


def test_any_other_zip_is_not_ours(tmp_path):
    path = tmp_path / "holiday.zip"
    rewrite(path, {"photo.jpg": zlib.compress(b"beach")})
    with pytest.raises(ValueError, match=r"is not a model saved by sb3_matrl \(no manifest\.json\)"):
        read_archive(path)


@pytest.mark.parametrize(
    "name", ["../../escaped.json", "/etc/passwd.json", "a/../b.json", "..\\up.json", "C:x.json", "a//b.json", "a\n.json", "x/"]
)
def test_names_that_lead_elsewhere_are_refused(path, tmp_path, name):
    forge(path, **{name: b"1"})
    with pytest.raises(ValueError, match=r"model\.zip .*has a name that sb3_matrl never writes"):
        read_archive(path)
    assert names_in(tmp_path) == ["model.zip"]


@pytest.mark.parametrize("name", ["data.pkl", "data", "agents/0.pth", "policy.pickle", "code.py"])
def test_pickles_under_names_that_another_loader_knows_are_refused_and_not_run(path, tmp_path, name):
    target = tmp_path / "exploded"
    forge(path, **{name: pickled(Bomb(target))})
    with pytest.raises(ValueError, match=r"cannot be read safely: .*neither \.json nor \.pt"):
        read_archive(path)
    assert not target.exists()


@pytest.mark.parametrize("name", ["model.json", "extra.json"])
def test_a_pickle_in_place_of_a_document_is_no_json(path, tmp_path, name):
    target = tmp_path / "exploded"
    forge(path, **{name: pickled(Bomb(target))})
    with pytest.raises(ValueError, match="cannot be read safely"):
        read_archive(path)
    rewrite(path, members_of(path) | {"manifest.json": pickled(Bomb(target))})
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        read_archive(path)
    assert not target.exists()


def test_two_members_of_one_name_are_refused(path):
    members = members_of(path)
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("model.json", members["model.json"])
    with pytest.raises(ValueError, match="two members of one name"):
        read_archive(path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(path):
    members = members_of(path) | {"bomb.json": b" " * 50_000_000}
    rewrite(path, members, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    assert peak_of_refusing(path, "is compressed") < 1_000_000


def test_members_that_share_their_bytes_are_refused(path):
    # The directory names the same content many times over: a bomb without compression.
    content = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        start, n = file.start_dir, len(file.namelist()) + 12
    entries = content[start : content.rfind(b"PK\x05\x06")]
    last = entries[entries.rfind(b"PK\x01\x02") :]
    copies = [last.replace(b"agents/0.pt", b"agents/%c.pt" % letter) for letter in b"abcdefghijkl"]
    directory = entries + b"".join(copies)
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, n, n, len(directory), start, 0)
    path.write_bytes(content[:start] + directory + tail)
    with pytest.raises(ValueError, match="larger together than the whole file"):
        read_archive(path)


def peak_of_refusing(path, message):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            read_archive(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def torch_members(value):
    buffer = io.BytesIO()
    th.save(value, buffer)
    with zipfile.ZipFile(buffer) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("numbers", [1000, 2**30])
def test_a_tensor_that_declares_more_than_its_member_has_is_refused(path, numbers):
    members = torch_members({"w": th.arange(4.0)})
    name = next(name for name in members if name.endswith("data.pkl"))
    declared = members[name].replace(b"K\x04t", b"J" + struct.pack("<i", numbers) + b"t")
    declared = declared.replace(b"K\x04\x85", b"J" + struct.pack("<i", numbers) + b"\x85")
    assert declared != members[name]
    forge(path, **{"agents/0.pt": zipped(members | {name: declared})})
    with pytest.raises(ValueError, match=r"cannot be read safely: agents/0\.pt"):
        read_archive(path)


def test_one_number_that_stands_for_many_is_refused(path):
    buffer = io.BytesIO()
    th.save({"w": th.ones(1).expand(2**40)}, buffer)
    forge(path, **{"agents/0.pt": buffer.getvalue()})
    with pytest.raises(ValueError, match=r"tensor of shape \(1099511627776,\), larger than its data"):
        read_archive(path)


def test_a_zip_bomb_within_a_tensor_member_is_refused(path):
    forge(path, **{"agents/0.pt": zipped(torch_members({"w": th.zeros(10_000_000)}), zipfile.ZIP_DEFLATED)})
    assert peak_of_refusing(path, r"agents/0\.pt: its member .* is compressed") < 2_000_000


def test_tensors_that_share_their_numbers_are_no_bomb(tmp_path):
    # As those of policies with a shared feature extractor do.
    shared = th.arange(10_000.0)
    write_archive(tmp_path / "shared.zip", {}, {"t": {str(i): shared for i in range(5)}})
    assert th.equal(read_archive(tmp_path / "shared.zip")[1]["t"]["4"], shared)


def doubling():
    value = [0]
    for _ in range(60):
        value = [value, value]
    return value


def circle():
    value = []
    value.append(value)
    return value


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (doubling(), "more values than bytes"),
        (circle(), "more values than bytes|nested deeper"),
        (nested(archive.MAX_DEPTH + 1), "nested deeper than 100 levels"),
        ({"x": {1, 2}}, "value of type set"),
        ({"x": th.float32}, "value of type dtype"),
        ({(1, 2): 3}, "neither a string nor an integer"),
        (
            {"x": th.sparse_coo_tensor(th.tensor([[0]]), th.ones(1), (2**40,), check_invariants=False)},
            "tensor without data|Invalid",
        ),
        ({"x": th.empty(2**40, device="meta")}, "tensor without data"),
    ],
    ids=["doubling", "circle", "nested", "set", "dtype", "key", "sparse", "meta"],
)
def test_structures_that_would_harm_the_reader_are_refused_and_not_written(path, value, message):
    with pytest.raises(ValueError, match=message):
        write_archive(path, {}, {"t": value})
    buffer = io.BytesIO()
    th.save(value, buffer)
    forge(path, **{"agents/0.pt": buffer.getvalue()})
    with pytest.raises(ValueError, match=f"cannot be read safely.*({message}|Unsupported|Can only)"):
        read_archive(path)


@pytest.mark.parametrize(
    "document",
    [b"[" * 100_000, b"[" * 200 + b"]" * 200, b'{"x": NaN}', b"[-Infinity]", b"9" * 10_000, b"[" + b"9" * 10_000 + b"]"],
)
def test_documents_that_would_harm_the_reader_are_refused(path, document):
    forge(path, **{"model.json": document})
    with pytest.raises(ValueError, match=r"model\.zip has a member that cannot be read safely: model\.json"):
        read_archive(path)


def test_the_format_is_the_one_that_readers_know():
    # A change of either is a change of the file format, which older files must survive.
    assert (archive.FORMAT, archive.FORMAT_VERSION) == ("sb3-matrl", 3)
