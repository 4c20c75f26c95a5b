"""The number of organ groups is printed for the scripts."""

from data.organ_groups import main


def test_the_number_of_groups_is_printed(capsys):
    assert main(["CHAOST2", "data/CHAOST2"]) == 0
    assert capsys.readouterr().out == "2\n"
    assert main(["CMR", "data/CMR"]) == 0
    assert capsys.readouterr().out == "1\n"


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["Hips", "~"]) == 2
    assert str(tmp_path / "dataset.json") in capsys.readouterr().err


def test_unknown_data_cost_one_line(tmp_path, capsys):
    assert main(["Hips", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: dataset=Hips: must be CHAOST2")
    assert captured.out == ""
