"""What lies in deploy/ fits the commands and the metrics that there are; a real Prometheus reads it."""

from __future__ import annotations

import functools
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from prometheus_client import CollectorRegistry, generate_latest

from hedgerow.cli import application
from hedgerow.config import load_experiment
from hedgerow.config.run_config import experiment_in
from hedgerow.telemetry.prometheus import FleetMetrics, RunMetrics
from tests.contract.engines import running
from tests.e2e.command import HEDGEROW, TINY
from tests.waiting import free_port, until

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"

# It comes with flwr, and without types.
yaml: Any = importlib.import_module("yaml")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _run(*command: str | Path, stdin: str | None = None) -> str:
    done = subprocess.run([str(part) for part in command], input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


@functools.cache
def _compose() -> dict[str, Any]:
    (document,) = _documents("compose.yaml")
    return document


# --- files


@pytest.mark.parametrize("path", sorted(p.relative_to(DEPLOY).as_posix() for p in DEPLOY.rglob("*.y*ml")))
def test_yaml_files_parse_and_no_key_is_there_twice(path: str) -> None:
    documents = list(yaml.load_all((DEPLOY / path).read_text(), Loader=_Strict))
    assert documents
    assert all(documents)


class _Strict(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: {keys}"
        return super().construct_mapping(node, deep)


def test_the_experiment_is_one() -> None:
    experiment = load_experiment(DEPLOY / "experiment.toml")
    devices = _documents("kubernetes/devices.yaml")[1]["spec"]["replicas"]
    assert experiment.fleet.clients == devices == sum(name.startswith("device-") for name in _compose()["services"])


def test_the_flower_app_names_what_there_is() -> None:
    app = tomllib.loads((DEPLOY / "flower" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    kinds = {"serverapp": ServerApp, "clientapp": ClientApp}
    assert app["components"].keys() == kinds.keys()
    for side, reference in app["components"].items():
        module, _, attribute = reference.partition(":")
        assert isinstance(getattr(importlib.import_module(module), attribute), kinds[side])
    assert experiment_in(app["config"] | {"set": "rounds=7"}).rounds == 7


def test_what_the_files_refer_to_is_there() -> None:
    made_by_the_user = {"enrolment"}
    for service in _compose()["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("./") and Path(source).parts[0] not in made_by_the_user:
                assert (DEPLOY / source).exists(), source
            elif not source.startswith("./"):
                assert source in _compose()["volumes"]
    (kustomization,) = _documents("kustomization.yaml")
    for name in [*kustomization["resources"], *kustomization["configMapGenerator"][0]["files"]]:
        assert (DEPLOY / name).exists(), name


def test_the_manifests_build_and_take_only_what_is_made() -> None:
    made = set(re.findall(r"create secret generic (\w+)", (DEPLOY / "README.md").read_text()))
    kinds = []
    for manifest in yaml.safe_load_all(_run(_program("kubectl"), "kustomize", DEPLOY)):
        kinds.append(manifest["kind"])
        if manifest["kind"] == "StatefulSet":
            pod = manifest["spec"]["template"]["spec"]
            claims = {claim["metadata"]["name"] for claim in manifest["spec"]["volumeClaimTemplates"]}
            volumes = {volume["name"] for volume in pod["volumes"]} | claims
            assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes
            secrets = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
            assert secrets
            assert made.issuperset(secrets)
    assert sorted(kinds) == ["ConfigMap", "Namespace", "Service", "Service", "StatefulSet", "StatefulSet"]


def test_the_units_have_nothing_that_systemd_does_not_know(tmp_path: Path) -> None:
    analyze = _program("systemd-analyze")
    for unit in (DEPLOY / "systemd").glob("*.service"):
        # systemd wants the program to exist.
        text = unit.read_text().replace("/opt/hedgerow/bin/hedgerow", sys.executable)
        (tmp_path / unit.name).write_text(text)
        said = _run(analyze, "verify", "--man=no", tmp_path / unit.name)
        assert unit.stem not in said, said


# --- commands


def _commands() -> Iterator[tuple[str, Sequence[str]]]:
    """Where a command of hedgerow stands, and its arguments."""
    for name, service in _compose()["services"].items():
        if "command" in service:
            yield f"compose.yaml: {name}", service["command"]
    for name in ("coordinator", "devices"):
        for document in _documents(f"kubernetes/{name}.yaml"):
            if document["kind"] == "StatefulSet":
                (container,) = document["spec"]["template"]["spec"]["containers"]
                yield f"kubernetes/{name}.yaml", container["args"]
    variables = dict(
        line.split("=", 1) for line in (DEPLOY / "systemd" / "device.env").read_text().splitlines() if "=" in line
    )
    for unit in (DEPLOY / "systemd").glob("*.service"):
        text = unit.read_text().replace("\\\n", " ")
        line = next(line for line in text.splitlines() if line.startswith("ExecStart="))
        for name, value in variables.items():
            line = line.replace(f"${name}", value.strip('"'))
        yield unit.name, shlex.split(line)[1:]
    for line in (DEPLOY / "README.md").read_text().splitlines():
        words = shlex.split(line, comments=True) if line.startswith("    ") and "hedgerow" in line else []
        for place, word in enumerate(words):
            if word.endswith("/bin/hedgerow") or (word == "hedgerow" and place == 0):
                yield f"README.md: {line.strip()}", words[place + 1 :]


@pytest.mark.parametrize(("where", "arguments"), list(_commands()), ids=[where for where, _ in _commands()])
def test_a_command_is_taken_by_the_command_line(where: str, arguments: Sequence[str]) -> None:
    group: Any = typer.main.get_command(application())
    command = group.commands[arguments[0]]
    # Raises where an option is not known, or a value is not of its type.
    command.make_context(arguments[0], list(arguments[1:]))


def test_all_ways_of_deploying_are_covered() -> None:
    places = [where for where, _ in _commands()]
    commands = [arguments[0] for _, arguments in _commands()]
    assert len(places) >= 10
    assert {"coordinator", "join", "enrol", "status"} <= set(commands)


# --- metrics


def _registry() -> CollectorRegistry:
    """Of a coordinator."""
    metrics = RunMetrics()
    FleetMetrics(metrics.registry, state=lambda: "waiting")
    return metrics.registry


def _names() -> set[str]:
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "info": ["_info"]}
    return {
        family.name + suffix
        for family in _registry().collect()
        for suffix in suffixes.get(family.type, [""])
        if family.name.startswith("hedgerow")
    }


def _asked() -> dict[str, str]:
    """Every PromQL expression, by where it stands."""
    found = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        found |= {rule["alert"]: rule["expr"] for rule in group["rules"]}
    return found


def test_alerts_and_dashboard_ask_for_metrics_that_there_are() -> None:
    there = _names()
    for where, expression in _asked().items():
        asked = set(re.findall(r"hedgerow_\w+", expression))
        assert asked or "up{" in expression or "process_" in expression
        assert asked <= there, where


def test_every_metric_is_looked_at_somewhere() -> None:
    asked = set(re.findall(r"hedgerow_\w+", " ".join(_asked().values())))
    families = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in asked}
    there = {name for name in _names() if not name.endswith(("_bucket", "_sum", "_count"))}
    assert there - families == {"hedgerow_info"}


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert all(x < 24 for x, _ in cells)
        assert not cells & taken, panel["title"]
        taken |= cells


def test_promtool_finds_no_fault_with_names_and_types() -> None:
    _run(_program("promtool"), "check", "metrics", stdin=generate_latest(_registry()).decode())


def test_promtool_accepts_the_configuration_and_its_rules() -> None:
    assert "SUCCESS" in _run(_program("promtool"), "check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    assert "SUCCESS" in _run(_program("promtool"), "test", "rules", DEPLOY / "prometheus" / "alerts.test.yml")


def test_every_alert_has_a_test() -> None:
    tested = (DEPLOY / "prometheus" / "alerts.test.yml").read_text()
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        assert {rule["alert"] for rule in group["rules"] if rule["alert"] not in tested} == set()


def test_prometheus_scrapes_a_coordinator_and_understands_every_expression(tmp_path: Path) -> None:
    prometheus, promtool = _program("prometheus"), _program("promtool")
    metrics_port, port, address = free_port(), free_port(), f"127.0.0.1:{free_port()}"
    here = f"http://127.0.0.1:{port}/api/v1"
    configuration = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    configuration["rule_files"] = [str(ALERTS)]
    configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{metrics_port}"]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    coordinator = [*HEDGEROW, "coordinator", *TINY, "--rounds=100000", "--min-devices=1", f"--listen={address}"]
    join = [*HEDGEROW, "join", address, "--data=digits", "--partition=0/6", f"--state={tmp_path / 'device'}"]
    serve = [prometheus, "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    with (
        running([*coordinator, f"--http=127.0.0.1:{metrics_port}"], folder=tmp_path, name="coordinator") as run,
        running(join, folder=tmp_path, name="join"),
        running([*serve, f"--web.listen-address=127.0.0.1:{port}"], folder=tmp_path, name="prometheus"),
    ):
        until(lambda: run.poll() is not None or _value(here, "hedgerow_round") >= 1, "a round is seen", seconds=90)
        assert _value(here, 'up{job="hedgerow"}') == 1, (tmp_path / "coordinator.log").read_text()
        exposition = _get(f"http://127.0.0.1:{metrics_port}/metrics")
        _run(promtool, "check", "metrics", stdin=exposition)
        assert 'hedgerow_layer_density_ratio{layer="' in exposition
        assert _value(here, "hedgerow_devices_attached") == 1
        assert _value(here, 'hedgerow_run_state{state="training"}') == 1
        assert _value(here, 'sum(hedgerow_section_bytes_total{section="weights",direction="up"})') > 0
        assert _query(here, "process_resident_memory_bytes")["data"]["result"]
        for where, expression in _asked().items():
            text = expression.replace("$instance", ".*").replace("$__rate_interval", "1m")
            assert _query(here, text)["status"] == "success", where
        until(lambda: _rules_are_evaluated(here), "the rules are evaluated", seconds=30)


def _rules_are_evaluated(api: str) -> bool:
    groups = json.loads(_get(f"{api}/rules"))["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert all(rule["health"] != "err" for rule in rules), rules
    return bool(rules) and all(rule["health"] == "ok" for rule in rules)


def _query(api: str, expression: str) -> Mapping[str, Any]:
    answer = json.loads(_get(f"{api}/query?" + urllib.parse.urlencode({"query": expression})))
    assert isinstance(answer, dict)
    return answer


def _value(api: str, expression: str) -> float:
    """Of the only series; -1 where there is none, or nobody answers yet."""
    try:
        series = _query(api, expression)["data"]["result"]
    except OSError:
        return -1.0
    return float(series[0]["value"][1]) if series else -1.0


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        text = response.read().decode()
        assert isinstance(text, str)
        return text
