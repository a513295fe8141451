import os

import pool_functions
import pytest

from shards.pool import Died, WorkerPool, available_cores


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_tasks(num_workers):
    with WorkerPool(pool_functions.square_slowly_if_even, num_workers) as pool:
        for count in (0, 1, 30):  # the processes stay for the next tasks
            assert list(pool.run_in_order(range(count))) == [number * number for number in range(count)]


def test_a_dead_process_costs_its_own_task_only():
    with WorkerPool(pool_functions.die_at_multiples_of_five, 2) as pool:
        results = list(pool.run_in_order(range(1, 23)))
    assert results == [Died(-9) if n % 10 == 0 else Died(7) if n % 5 == 0 else n for n in range(1, 23)]
    assert str(Died(-9)) == "its process was killed by SIGKILL"
    assert str(Died(7)) == "its process ended with exit code 7"


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_task_whose_process_died_is_tried_again_alone(tmp_path, num_workers):
    tasks = [(str(tmp_path), number) for number in range(1, 23)]
    with WorkerPool(pool_functions.die_once_at_multiples_of_five, num_workers) as pool:
        results = list(pool.run_in_order(tasks))
    assert [number for number, _ in results] == list(range(1, 23))
    assert [others for number, others in results if number % 5 == 0] == [0, 0, 0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "10.died",
        "15.died",
        "20.died",
        "5.died",
    ]


def test_a_task_is_tried_again_by_a_living_process(tmp_path):
    note = str(tmp_path / "note")
    with WorkerPool(pool_functions.die_once_with_another, 2) as pool:
        idle, _ = pool.run_in_order([(note, 0), (note, 0)])
        results = list(pool.run_in_order([(note, 0), (note, idle)]))
    assert results[0] == idle
    assert not isinstance(results[1], Died)


def test_an_exception_of_the_function_is_raised_here_and_the_pool_goes_on():
    with WorkerPool(pool_functions.fail_at_three, 2) as pool:
        with pytest.raises(ValueError, match="cannot do 3"):
            list(pool.run_in_order(range(6)))
        assert list(pool.run_in_order([4, 5])) == [4, 5]


def test_tasks_are_read_only_a_little_ahead():
    read = []
    tasks = (read.append(number) or number for number in range(100))
    with WorkerPool(pool_functions.square_slowly_if_even, 2) as pool:
        next(pool.run_in_order(tasks))
        assert len(read) <= 9


def test_closed_in_the_middle_the_next_results_are_not_mixed_up():
    with WorkerPool(pool_functions.square_slowly_if_even, 2) as pool:
        results = pool.run_in_order(range(100))
        assert next(results) == 0
        results.close()
        assert list(pool.run_in_order([7, 8])) == [49, 64]


def test_the_end_of_the_pool_ends_the_processes():
    with WorkerPool(pool_functions.echo_process_id, 1) as pool:
        process_id = next(pool.run_in_order(range(100)))
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "350000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_cores_are_counted_within_the_quota_of_the_container(tmp_path, monkeypatch, files, cores):
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr("shards.pool._CGROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    assert available_cores() == cores


def test_there_is_a_core():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
