import pytest

from tsn.errors import UserError
from tsn.work_dir import WorkDirClaim, find_checkpoint


def test_a_new_run_needs_a_directory_without_one(tmp_path):
    assert find_checkpoint(tmp_path / "new", None) is None
    (tmp_path / "notes.txt").touch()
    assert find_checkpoint(tmp_path, None) is None
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(
        UserError, match=r"already holds a run \(log.jsonl\); go on with it with --resume auto"
    ):
        find_checkpoint(tmp_path, None)


@pytest.mark.parametrize("resume", [None, "auto"])
@pytest.mark.parametrize("name", ["notes.txt", "notes.txt/run"])
def test_a_file_is_no_work_dir(tmp_path, name, resume):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=rf"--work-dir .*{name}: .*notes.txt is a file; name a directory"):
        find_checkpoint(tmp_path / name, resume)


def test_auto_goes_on_from_last_and_begins_where_there_is_none(tmp_path):
    assert find_checkpoint(tmp_path, "auto") is None
    (tmp_path / "log.jsonl").touch()
    assert find_checkpoint(tmp_path, "auto") is None, "killed before the first checkpoint"
    (tmp_path / "last.pt").touch()
    assert find_checkpoint(tmp_path, "auto") == tmp_path / "last.pt"


def test_auto_does_not_begin_again_over_a_best_model(tmp_path):
    (tmp_path / "best.pt").touch()
    with pytest.raises(
        UserError, match=r"holds best.pt but no last.pt; say from which file with --resume PATH"
    ):
        find_checkpoint(tmp_path, "auto")


def test_a_named_checkpoint_must_exist_and_not_lead_into_another_run(tmp_path):
    with pytest.raises(UserError, match=r"--resume .*x.pt: no such file"):
        find_checkpoint(tmp_path, str(tmp_path / "x.pt"))
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir()
        (folder / "last.pt").touch()
    assert find_checkpoint(own, str(own / "last.pt")) == own / "last.pt"
    assert find_checkpoint(tmp_path / "new", str(own / "last.pt")) == own / "last.pt"
    with pytest.raises(UserError, match=r"already holds a run \(last.pt\) other than that of"):
        find_checkpoint(other, str(own / "last.pt"))


def test_a_claim_keeps_others_out_until_it_is_closed(tmp_path):
    one, other = WorkDirClaim(), WorkDirClaim()
    one.take(tmp_path / "new")
    one.take(tmp_path)
    assert not list(tmp_path.iterdir()), "where there is no log, nothing is made"
    one.take(tmp_path, create=True)
    one.take(tmp_path, create=True)
    for create in (False, True):
        with pytest.raises(UserError, match="another run is writing here"):
            other.take(tmp_path, create=create)
    one.close()
    other.take(tmp_path)
    with pytest.raises(UserError, match="another run is writing here"):
        one.take(tmp_path)
    other.close()
    one.close()
