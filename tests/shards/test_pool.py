import os

import pool_functions
import pytest

from shards.pool import Died, available_cores, run_in_order


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 2, 20])
def test_results_come_in_the_order_of_the_tasks(num_workers, window):
    results = run_in_order(
        pool_functions.square_slowly_if_even, range(10), num_workers=num_workers, window=window
    )
    assert list(results) == [number * number for number in range(10)]


def test_no_tasks_give_no_results():
    assert list(run_in_order(pool_functions.fail_at_three, [], num_workers=2, window=4)) == []


def test_a_dead_process_costs_its_own_task_only():
    results = list(
        run_in_order(pool_functions.die_at_multiples_of_five, range(1, 23), num_workers=2, window=8)
    )
    expected = [Died(-9) if n % 10 == 0 else Died(7) if n % 5 == 0 else n for n in range(1, 23)]
    assert results == expected
    assert str(Died(-9)) == "its process was killed by SIGKILL"
    assert str(Died(7)) == "its process ended with exit code 7"


def test_an_exception_of_the_function_is_raised_here():
    results = run_in_order(pool_functions.fail_at_three, range(6), num_workers=2, window=8)
    with pytest.raises(ValueError, match="cannot do 3"):
        list(results)


def test_tasks_are_read_only_as_far_as_the_window():
    read = []
    tasks = (read.append(number) or number for number in range(100))
    results = run_in_order(pool_functions.square_slowly_if_even, tasks, num_workers=2, window=4)
    next(results)
    assert len(read) <= 5
    results.close()


def test_closing_ends_the_processes():
    results = run_in_order(pool_functions.echo_process_id, range(100), num_workers=1, window=2)
    process_id = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)


def test_there_is_a_core():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
