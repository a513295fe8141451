import json
import os

from tsn.machine import describe_machine


def test_description_names_hardware_versions_and_date_and_is_ready_for_json():
    machine = describe_machine("pillow", "no-such-package")
    assert json.loads(json.dumps(machine)) == machine
    assert machine["num_cores"] == len(os.sched_getaffinity(0))
    assert machine["cpu"]
    assert machine["date"].endswith("UTC")
    assert {"torch", "av", "numpy", "pillow"} <= set(machine["versions"])
    assert "no-such-package" not in machine["versions"]
