import numpy as np
import pytest

from tsn.errors import UserError
from tsn.scores import Scores, read_scores, write_scores


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


def test_videos_without_finite_scores_are_counted_and_named(tmp_path):
    scores = np.ones((9, 2), np.float32)
    scores[2:, 1], scores[8, 0] = np.nan, np.inf
    names, labels = np.array([f"v{i}" for i in range(9)]), np.zeros(9, np.int64)
    write_scores(tmp_path / "s.npz", Scores("", names, labels, scores), overwrite=False)
    with pytest.raises(
        UserError,
        match=r"s.npz: scores of 7 of 9 videos are infinite or not a number: v2, v3, v4, v5, v6 and 2 more; "
        r"test that model again$",
    ):
        read_scores(tmp_path / "s.npz")


@pytest.mark.parametrize(
    ("labels", "scores", "fault"),
    [
        ([0.5, 1], np.ones((2, 3)), "labels of type float64, expected whole numbers"),
        ([0, 3], np.ones((2, 3)), "labels from 0 to 3, expected 0 to 2"),
        ([-1, 0], np.ones((2, 3)), "labels from -1 to 0, expected 0 to 2"),
        ([[0, 3], [1, 0]], np.ones((2, 2)), "labels from 0 to 3, expected 0 to 1"),
        ([0, 1], np.ones((2, 3), int), "scores of type int64, expected floating point"),
        ([0, 1], np.full((2, 3), "1.0"), "scores of type <U3, expected floating point"),
    ],
)
def test_numbers_of_another_kind_or_range_are_refused(tmp_path, labels, scores, fault):
    np.savez(tmp_path / "s.npz", names=np.array(["a", "b"]), labels=np.array(labels), scores=scores)
    with pytest.raises(UserError, match=rf"s.npz: {fault}; eval.py --scores writes"):
        read_scores(tmp_path / "s.npz")
