"""Names of files that are made of names of videos."""

import random

from reproduce.common.naming import file_names, safe_name


def test_names_of_files_are_safe():
    assert safe_name("basketball/v_shooting_01/v_01.mpg") == "basketball-v_shooting_01-v_01"
    assert safe_name("wave/#20! (à é)[x]_1.avi") == "wave-20-x-_1"
    assert len(safe_name("a" * 300 + ".avi")) == 80


def test_no_two_videos_have_a_file_s_name_and_none_has_an_empty_one():
    videos = [
        "跑步/01.mp4",
        "跳跃/01.mp4",
        "a b.mp4",
        "a-b.mp4",
        "A-B.avi",
        "a-b-2.avi",
        "日本.mp4",
        "日.mp4",
        "a" * 99,
        "b" + "a" * 98,
    ]
    names = file_names(videos)
    assert names[:8] == ["01", "01-2", "a-b", "a-b-2", "A-B-3", "a-b-2-2", "video", "video-2"]
    assert len({name.lower() for name in names}) == len(names) and all(names)
    assert names == file_names(videos), "the same each time"


def test_names_that_are_safe_and_differ_stay_as_they_are():
    videos = [f"class{label}/clip_{number}.avi" for label in range(3) for number in range(9)]
    random.Random(0).shuffle(videos)
    assert file_names(videos) == [safe_name(video) for video in videos]
