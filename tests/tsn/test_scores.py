import numpy as np
import pytest

from tsn.errors import UserError
from tsn.scores import read_scores


def test_a_missing_file_of_scores_is_said_to_be_missing(tmp_path):
    with pytest.raises(UserError, match=r"gone.npz: no such file of scores; eval.py --scores writes them$"):
        read_scores(tmp_path / "gone.npz")


def test_other_files_are_no_scores_and_numpy_is_not_quoted(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").touch()
    np.savez(tmp_path / "other.npz", names=np.array(["a"]))
    np.savez(tmp_path / "objects.npz", names=np.array([None]), labels=np.zeros(1), scores=np.zeros((1, 2)))
    np.save(tmp_path / "array.npy", np.zeros(3))
    for path in tmp_path.iterdir():
        with pytest.raises(UserError, match=rf"{path.name}: is no file of scores, .*; name such a file$"):
            read_scores(path)
