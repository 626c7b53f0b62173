"""The data sets from their archives: placed, named, downloaded; interrupted, replaced, deleted; two at once."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hosting import Served, ftp_host, http_host
from packing import hmdb51_files, hollywood2_files, mark, rar_of_rars, tarred, ucf11_files, ucf11_names, zipped
from rar import rar

from datamodules import hmdb51, hollywood2, ucf11, ucf101
from datamodules.miniature import LAYOUTS
from datamodules.videos import DataError
from reproduce.acquisition import install as acquiring
from reproduce.acquisition.download import Patience
from reproduce.acquisition.install import Sources, acquire
from reproduce.acquisition.rar import COMMANDS
from reproduce.common import files
from reproduce.common.files import Need, check_space
from reproduce.common.settings import SettingsError

READERS = {"ucf11": ucf11, "hmdb51": hmdb51, "hollywood2": hollywood2, "ucf101": ucf101}
CALM = Patience(timeout=60, attempts=2, pause=0.01)  # a busy machine is no fault of the server
needs_a_tool = pytest.mark.skipif(not any(map(shutil.which, COMMANDS)), reason="no tool reads RAR here")
UCF11 = ucf11_files({name: f"video {name}".encode() * 100 for name in ucf11_names()})


@pytest.fixture(autouse=True)
def room(monkeypatch):
    """A disk on which every data set fits, as its facts foretell it, whatever is free here."""
    free(monkeypatch, 2**40)


@pytest.fixture
def host(count):
    with http_host() as host:
        yield host
    count("faults of servers", host.injected)


def official(data: str, **addresses: str | None):
    """The facts of a data set, at other addresses, without published hashes, which generated archives cannot have."""
    return tuple(
        replace(archive, addresses=tuple(filter(None, [addresses.get(archive.name.split(".")[0])])), md5=None)
        for archive in READERS[data].ARCHIVES
    )


def get(data: str, root: Path, archives=None, files=(), mirrors=(), online: bool = False) -> int:
    """Bring a data set in and read it; returns its number of videos."""
    mark(root, data)
    acquire(data, root, archives or official(data), Sources(files, mirrors, online, CALM))
    assert not list(root.rglob("*.part*")), "nothing is left over"
    return len(READERS[data].read(root).videos)


def ledger(root: Path) -> dict:
    return json.loads((root / "archives.json").read_text())


PACKED = {".zip": zipped(UCF11), ".tar.gz": tarred(UCF11, "w:gz"), ".rar": zipped(UCF11)}
"""The last is a zip by its bytes: they count, not the name."""


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("where", ["ucf11/UCF11_updated_mpg", "UCF11_updated_mpg", "elsewhere/my own"])
def test_an_archive_is_taken_where_the_user_has_put_it(suffix, where, tmp_path, capsys):
    path = tmp_path / f"{where}{suffix}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(PACKED[suffix])
    named = [str(path)] if "elsewhere" in where else []
    root = tmp_path / "ucf11"
    assert get("ucf11", root, files=named) == 22
    assert f"taking {path}" in capsys.readouterr().out and path.read_bytes() == PACKED[suffix]
    entry = ledger(root)["archives"][path.name]
    assert entry["bytes"] == len(PACKED[suffix]) and entry["from"] == "placed by hand" and len(entry["sha256"]) == 64
    assert ledger(root)["extracted"]["UCF11_updated_mpg.rar"]["files"] == len(UCF11)


@pytest.mark.parametrize("inside", ["", "some/where/"], ids=["as it is", "in more folders"])
def test_an_archive_may_hold_more_folders_or_fewer(inside, tmp_path):
    path = tmp_path / "UCF11_updated_mpg.zip"
    path.write_bytes(zipped({inside + name.removeprefix("UCF11_updated_mpg/"): data for name, data in UCF11.items()}))
    assert get("ucf11", tmp_path / "ucf11") == 22


@pytest.mark.counts("damaged archives")
def test_what_is_there_is_not_touched(tmp_path, capsys):
    root = tmp_path / "ucf11"
    for name, data in UCF11.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "UCF11_updated_mpg.rar").write_bytes(b"not even an archive")
    assert get("ucf11", root) == 22
    assert "already" in capsys.readouterr().out and not (root / "archives.json").exists()


def test_what_was_begun_by_hand_is_completed_and_kept(tmp_path):
    root = tmp_path / "ucf11"
    mine = root / "UCF11_updated_mpg/basketball/mine.txt"
    mine.parent.mkdir(parents=True)
    for name in ucf11_names():
        if name.startswith("basketball/"):
            (mine.parents[1] / name).parent.mkdir(parents=True, exist_ok=True)
            (mine.parents[1] / name).write_bytes(b"my copy")
    mine.write_text("keep me")
    (root / "UCF11_updated_mpg.rar").write_bytes(zipped(UCF11))
    assert get("ucf11", root) == 22
    assert mine.read_text() == "keep me" and (root / "UCF11_updated_mpg" / ucf11_names()[0]).read_bytes() == b"my copy"


@needs_a_tool
def test_ucf101_is_a_rar_of_clips_and_a_zip_of_lists(tmp_path):
    clips, lists, _ = LAYOUTS["ucf101"]()
    root = mark(tmp_path / "ucf101", "ucf101")
    (root / "UCF101.rar").write_bytes(rar({clip.path: b"x" for clip in clips}))
    listed = {name: text.encode() for name, text in lists.items()}
    (tmp_path / "UCF101TrainTestSplits-RecognitionTask.zip").write_bytes(zipped(listed))
    assert get("ucf101", root) == 4 * 101
    assert (root / "UCF-101/HandstandPushups/v_HandStandPushups_g08_c01.avi").is_file()


@needs_a_tool
def test_hmdb51_is_a_rar_of_rars(tmp_path):
    clips, splits = hmdb51_files()
    root = mark(tmp_path / "hmdb51", "hmdb51")
    (root / "hmdb51_org.rar").write_bytes(rar_of_rars(clips))
    (tmp_path / "test_train_splits.rar").write_bytes(rar(splits))
    assert get("hmdb51", root) == 2 * 51
    found = {p.relative_to(root / "hmdb51_org").as_posix(): p.read_bytes() for p in (root / "hmdb51_org").rglob("*.avi")}
    assert found == clips and not list((root / "hmdb51_org").rglob("*.rar"))
    assert ledger(root)["extracted"]["hmdb51_org.rar"]["files"] == len(clips)


def test_hmdb51_packed_again_without_the_inner_archives(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    clips, splits = hmdb51_files()
    root = mark(tmp_path / "hmdb51", "hmdb51")
    (root / "hmdb51_org.zip").write_bytes(zipped(clips))
    (root / "test_train_splits.tgz").write_bytes(tarred(splits, "w:gz"))
    assert get("hmdb51", root) == 2 * 51


@pytest.mark.parametrize("where", ["hmdb51_org", ""])
def test_hmdb51_of_which_only_the_outer_archive_was_extracted_by_hand(where, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    clips, splits = hmdb51_files()
    root = mark(tmp_path / "hmdb51", "hmdb51")
    (root / where).mkdir(exist_ok=True)
    for name in hmdb51.CLASSES:  # zips by their bytes, so that no tool is needed
        inner = zipped({path: data for path, data in clips.items() if path.startswith(f"{name}/")})
        (root / where / f"{name}.rar").write_bytes(inner)
    (root / "test_train_splits.zip").write_bytes(zipped(splits))
    assert get("hmdb51", root) == 2 * 51
    assert (root / where / "brush_hair.rar").is_file(), "not ours to delete"


def test_hmdb51_interrupted_between_two_classes_goes_on_with_the_next(tmp_path, monkeypatch, count):
    monkeypatch.setenv("PATH", "")
    clips, splits = hmdb51_files()
    root = mark(tmp_path / "hmdb51", "hmdb51")
    inner = {
        f"{name}.rar": zipped({path: data for path, data in clips.items() if path.startswith(f"{name}/")})
        for name in hmdb51.CLASSES
    }
    (root / "hmdb51_org.rar").write_bytes(zipped(inner))
    (root / "test_train_splits.rar").write_bytes(zipped(splits))
    extracted, whole = [], acquiring.extract

    def extract(path, target):
        if len(extracted) in (1, 10, 40) and extracted[-1] is not None:
            extracted.append(None)
            raise KeyboardInterrupt
        extracted.append(path.name)
        return whole(path, target)

    monkeypatch.setattr(acquiring, "extract", extract)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            get("hmdb51", root)
    count("interruptions", extracted.count(None))
    assert get("hmdb51", root) == 2 * 51
    names = [name for name in extracted if name]
    assert len(names) == len(set(names)) == 2 + 51, "nothing was extracted twice"


# downloads


def test_hmdb51_from_its_official_addresses(host, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    clips, splits = hmdb51_files()
    where = {
        "hmdb51_org": host.put("2013/10/hmdb51_org.rar", zipped(clips), "drop:3000", "status:503"),
        "test_train_splits": host.put("2013/10/test_train_splits.rar", zipped(splits)),
    }
    root = tmp_path / "hmdb51"
    assert get("hmdb51", root, official("hmdb51", **where), online=True) == 2 * 51
    assert ledger(root)["archives"]["hmdb51_org.rar"]["from"] == where["hmdb51_org"]
    asked = [len(file.asked) for file in host.files.values()]
    assert get("hmdb51", root, official("hmdb51", **where), online=True) == 2 * 51
    assert [len(file.asked) for file in host.files.values()] == asked, "the second call asks nothing"


def test_hollywood2_from_its_ftp_server_after_a_mirror_that_has_moved(host, tmp_path, count):
    data = tarred(hollywood2_files(), "w:gz")
    name = "Hollywood2-actions.tar.gz"
    host.put(name, data, *["page"] * 3)
    file = Served(data, ["drop:900"])
    with ftp_host({f"local/vistas/actions/{name}": file}) as address:
        archives = (replace(hollywood2.ARCHIVES[0], addresses=(f"{address}/local/vistas/actions/{name}",), md5=None),)
        assert get("hollywood2", tmp_path / "hollywood2", archives, online=True, mirrors=[f"{host.url}/"]) == 24
    assert not file.faults
    count("faults of servers", 1)


def test_the_published_hash_of_a_download_and_of_a_placed_file_is_compared(host, tmp_path):
    data = tarred(hollywood2_files(), "w:gz")
    url = host.put("Hollywood2-actions.tar.gz", data)
    published = (replace(hollywood2.ARCHIVES[0], addresses=(url,)),)
    root = mark(tmp_path / "hollywood2", "hollywood2")
    with pytest.raises(DataError, match="55948d0ef45a569a2134ea44e6f8976c is published"):
        get("hollywood2", root, published, online=True)
    assert not (root / "Hollywood2-actions.tar.gz").exists()
    (root / "Hollywood2-actions.tar.gz").write_bytes(data)
    with pytest.raises(DataError, match="is not the published archive.*Remove the file"):
        get("hollywood2", root, published)
    (root / "Hollywood2-actions.tar.gz").rename(root / "Hollywood2-actions.tar")
    assert get("hollywood2", root, published) == 24, "another name says that somebody has packed it again"


@pytest.mark.counts("files that change on a server")
def test_a_hash_is_recorded_at_first_use_and_compared_later(host, tmp_path):
    root = tmp_path / "ucf11"
    url = host.put("UCF11_updated_mpg.rar", zipped(UCF11))
    archives = official("ucf11", UCF11_updated_mpg=url)
    assert get("ucf11", root, archives, online=True) == 22
    first = ledger(root)["archives"]["UCF11_updated_mpg.rar"]
    shutil.rmtree(root / "UCF11_updated_mpg")
    (root / "UCF11_updated_mpg.rar").unlink()
    other = {**UCF11, "UCF11_updated_mpg/more.txt": b"replaced"}
    host.put("UCF11_updated_mpg.rar", zipped(other))
    with pytest.raises(DataError) as error:
        get("ucf11", root, archives, online=True)
    message = str(error.value)
    assert first["sha256"] in message and first["first_used"] in message and str(root / "archives.json") in message
    (root / "UCF11_updated_mpg.rar").write_bytes(zipped(other))
    with pytest.raises(DataError, match="is not the file that was used before"):
        get("ucf11", root, archives)
    assert not (root / "UCF11_updated_mpg").exists()
    (root / "UCF11_updated_mpg.rar").unlink()
    host.put("UCF11_updated_mpg.rar", zipped(UCF11))
    assert get("ucf11", root, archives, online=True) == 22
    assert ledger(root)["archives"]["UCF11_updated_mpg.rar"]["first_used"] == first["first_used"]


@pytest.mark.counts("damaged archives")
def test_an_archive_that_ends_early_is_refused_and_the_next_address_asked(host, tmp_path):
    data = zipped(UCF11)
    short = host.put("short/UCF11_updated_mpg.rar", data[:-500])
    good = host.put("good/UCF11_updated_mpg.rar", data)
    root = tmp_path / "ucf11"
    assert get("ucf11", root, official("ucf11"), online=True, mirrors=[short, good]) == 22
    assert ledger(root)["archives"]["UCF11_updated_mpg.rar"]["from"] == good


@pytest.mark.counts("addresses that do not serve")
def test_where_no_address_serves_the_message_says_what_to_do(host, tmp_path):
    root = tmp_path / "ucf11"
    with pytest.raises(DataError) as error:
        get("ucf11", root, official("ucf11", UCF11_updated_mpg=f"{host.url}/gone"), online=True)
    message = str(error.value)
    assert "HTTP 404" in message and "mirrors=[…]" in message and str(root / "UCF11_updated_mpg.rar") in message


@pytest.mark.counts("damaged archives")
def test_another_archive_than_the_data_sets_is_refused(tmp_path):
    root = mark(tmp_path / "ucf11", "ucf11")
    (root / "UCF11_updated_mpg.zip").write_bytes(zipped({"biking/x.mpg": b"1"}))
    with pytest.raises(DataError, match=r"holds no folder with all of basketball, biking, diving … \(11 in all\)"):
        get("ucf11", root)
    assert sorted(path.name for path in root.iterdir()) == ["UCF11_updated_mpg.zip", "archives.json", "miniature.json"]


def test_without_archive_and_network_it_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match="UCF11_updated_mpg.rar is not in .* add download=true"):
        get("ucf11", tmp_path / "ucf11")


@pytest.mark.counts("settings that cannot be")
@pytest.mark.parametrize(
    ("sources", "says"),
    [
        (Sources(["/nowhere/x.rar"]), "there is no such file"),
        (Sources([__file__]), "expected test_train_splits.rar and hmdb51_org.rar"),
        (Sources((), ["http://127.0.0.1/ucf101.rar"]), "expected the address of test_train_splits.rar or hmdb51_org.rar"),
    ],
)
def test_what_belongs_to_no_archive_is_refused(sources, says, tmp_path):
    with pytest.raises(SettingsError, match=says):
        acquire("hmdb51", tmp_path / "hmdb51", hmdb51.ARCHIVES, sources)


def test_two_at_once_download_and_extract_once(host, tmp_path):
    url = host.put("UCF11_updated_mpg.rar", zipped(UCF11), "drop:1000", "stall")
    root, results = mark(tmp_path / "ucf11", "ucf11"), []
    archives = official("ucf11", UCF11_updated_mpg=url)

    def run() -> None:
        acquire("ucf11", root, archives, Sources(patience=CALM))
        results.append(len(ucf11.read(root).videos))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [22] * 4
    assert len(host.files["UCF11_updated_mpg.rar"].asked) == 3, "dropped, stalled, and served: by one of the four"


# space


def free(monkeypatch, count: int) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage._replace(free=count))


@pytest.mark.counts("full disks")
def test_a_small_disk_is_found_out_before_anything_is_fetched(host, tmp_path, monkeypatch):
    url = host.put("UCF11_updated_mpg.rar", zipped(UCF11))
    free(monkeypatch, 2 * 2**30)
    features = Need(tmp_path / "features", 30 * 2**30, "features")
    root = mark(tmp_path / "ucf11", "ucf11")
    with pytest.raises(DataError) as error:
        acquire("ucf11", root, official("ucf11", UCF11_updated_mpg=url), Sources(), features)
    message = str(error.value)
    assert "32.1 GiB are needed, 2.0 GiB are free" in message and str(tmp_path / "features") in message
    assert "1001.4 MiB for UCF11_updated_mpg.rar" in message or "1.0 GiB for UCF11_updated_mpg.rar" in message
    assert host.files["UCF11_updated_mpg.rar"].asked == [] and not (root / "UCF11_updated_mpg.rar.part").exists()


def test_what_is_there_already_needs_no_space(tmp_path, monkeypatch):
    needs = acquiring._needs
    archive, root = ucf11.ARCHIVES[0], mark(tmp_path / "ucf11", "ucf11")
    whole = sum(need.bytes for need in needs(root, [archive], {archive.name: None}))
    assert whole == archive.about_bytes + int(archive.about_bytes * acquiring.GROWTH)
    with (root / "UCF11_updated_mpg.rar.part").open("wb") as file:
        file.truncate(400_000_000)
    assert sum(need.bytes for need in needs(root, [archive], {archive.name: None})) == whole - 400_000_000
    placed = root / "UCF11_updated_mpg.zip"
    placed.write_bytes(zipped(UCF11))
    exact = sum(map(len, UCF11.values()))
    assert [need.bytes for need in needs(root, [archive], {archive.name: placed})] == [exact]


@pytest.mark.counts("full disks")
def test_needs_on_one_disk_add_up_and_folders_need_not_exist(tmp_path, monkeypatch):
    free(monkeypatch, files.RESERVE + 1000)
    one, other = Need(tmp_path / "a/b/c", 600, "one"), Need(tmp_path, 401, "other")
    check_space([one])
    check_space([one, replace(other, bytes=400)])
    with pytest.raises(DataError, match="too little disk space"):
        check_space([one, other])
