import json

from support.machine import describe_machine


def test_description_names_hardware_versions_and_date_and_is_ready_for_json(monkeypatch):
    monkeypatch.setattr("support.machine.core_share", lambda: 1.5)
    machine = describe_machine("pillow", "no-such-package")
    assert json.loads(json.dumps(machine)) == machine
    assert machine["num_cores"] == 1.5
    assert machine["cpu"]
    assert machine["date"].endswith("UTC")
    assert {"torch", "av", "numpy", "pillow"} <= set(machine["versions"])
    assert "no-such-package" not in machine["versions"]
