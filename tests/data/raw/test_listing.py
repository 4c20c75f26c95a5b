"""Files are listed in the order in which people count."""

from data.raw.listing import list_files, natural_sort_key


def test_numbers_in_names_count_by_value():
    names = ["case_10", "case_2", "case_02", "b1", "10", "9", "case"]
    assert sorted(names, key=natural_sort_key) == ["9", "10", "b1", "case", "case_02", "case_2", "case_10"]


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for name in ("a/1.txt", "a/.hidden", ".git/2.txt", "__MACOSX/3.txt", "4.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_files(tmp_path) == [tmp_path / "4.txt", tmp_path / "a" / "1.txt"]


def test_links_are_followed_and_a_circle_ends(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.txt").touch()
    (tmp_path / "a" / "above").symlink_to(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a" / "there").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "2.txt").touch()
    assert [path.name for path in list_files(tmp_path / "a")][:2] == ["1.txt", "2.txt"]
    assert len(list_files(tmp_path)) == 2
