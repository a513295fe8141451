import pytest
from frame_shards import numbered_videos, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Directories with a number of samples, in shards of 10, made on demand."""
    made = {}

    def with_samples(num_samples: int):
        if num_samples not in made:
            path = tmp_path_factory.mktemp("shards") / str(num_samples)
            made[num_samples] = write_shards(path, numbered_videos(num_samples, num_frames=12, size=(48, 48)))
        return made[num_samples]

    return with_samples
