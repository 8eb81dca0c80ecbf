"""Every alert fires when it should, is silent when all is well, and says what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.promtool import ROOT, promtool

RULES = ROOT / "k8s/dashboards/rules.yaml"
CASES = Path(__file__).parent / "alerts.yaml"
RUNBOOKS = ROOT / "docs/runbooks"


def list_alerts(text: str | None = None) -> list[dict[str, Any]]:
    groups = yaml.safe_load(text or RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def read_sections() -> dict[str, str]:
    """By `page.md#anchor`: what a runbook says of an alert."""
    sections = {}
    for path in RUNBOOKS.glob("*.md"):
        for part in re.split(r"^## ", path.read_text(), flags=re.MULTILINE)[1:]:
            title, _, body = part.partition("\n")
            sections[f"docs/runbooks/{path.name}#{title.strip().lower()}"] = body
    return sections


def run_cases(tmp_path: Path, rules: str) -> tuple[int, str]:
    """The cases against other rules."""
    (tmp_path / "rules.yaml").write_text(rules)
    cases = CASES.read_text().replace("../../k8s/dashboards/rules.yaml", "rules.yaml")
    (tmp_path / "alerts.yaml").write_text(cases)
    return promtool("test", "rules", tmp_path / "alerts.yaml")


def test_the_rules_are_well_formed():
    assert promtool("check", "rules", RULES)[0] == 0


def test_a_malformed_rule_is_found(tmp_path):
    (tmp_path / "rules.yaml").write_text(RULES.read_text().replace("== 0\n", "=== 0\n", 1))

    assert promtool("check", "rules", tmp_path / "rules.yaml")[0] != 0


def test_each_alert_fires_for_its_cause_and_for_nothing_else():
    code, said = promtool("test", "rules", CASES)

    assert code == 0, said


def test_each_alert_has_a_case():
    cases = {case["name"] for case in yaml.safe_load(CASES.read_text())["tests"]}

    assert {alert["alert"] for alert in list_alerts()} <= cases


def test_an_alert_that_cannot_fire_is_found(tmp_path):
    rules = RULES.read_text().replace('{result="wrong"}', '{result="wrnog"}')
    code, said = run_cases(tmp_path, rules)

    assert code != 0
    assert "StrongroomCanaryWrong" in said


def test_an_alert_that_always_fires_is_found(tmp_path):
    rules = RULES.read_text().replace("cache_limit_bytes > 0.9", "cache_limit_bytes > 0.9 or up")
    code, said = run_cases(tmp_path, rules)

    assert code != 0
    assert "healthy" in said or "ALERTS" in said


@pytest.mark.parametrize("alert", list_alerts(), ids=lambda one: one["alert"])
def test_an_alert_says_how_urgent_it_is_and_what_to_do(alert):
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    url = alert["annotations"]["runbook_url"]
    assert url.endswith(f"#{alert['alert'].lower()}")
    body = read_sections()[url]
    for word in ("**Meaning.**", "**Look first.**", "**Causes.**", "**Steps.**", "**Wake"):
        assert word in body, f"{url}: {word}"


def test_no_runbook_is_of_an_alert_that_is_gone():
    urls = {alert["annotations"]["runbook_url"] for alert in list_alerts()}

    assert set(read_sections()) == urls


def test_runbooks_name_commands_that_there_are():
    commands = {
        path.stem
        for folder in ("marketplace", "inference", "billing")
        for path in (ROOT / folder / "management/commands").glob("*.py")
    } | {"check", "migrate", "shell"}
    text = "\n".join(path.read_text() for path in RUNBOOKS.glob("*.md"))
    named = set(re.findall(r"manage\.py ([a-z_]+)", text))

    assert len(named) > 3
    assert named <= commands
    modules = set(re.findall(r"python -m ((?:inference|marketplace)[a-z_.]*)", text))
    assert modules
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_every_alert_is_listed_in_the_docs():
    text = (ROOT / "docs/observability.md").read_text()

    listed = dict(re.findall(r"^\| \[`(Strongroom\w+)`\]\(([^)]+)\) \|", text, re.MULTILINE))
    assert listed == {
        one["alert"]: one["annotations"]["runbook_url"].removeprefix("docs/")
        for one in list_alerts()
    }


def test_the_scrape_config_of_the_docs_is_accepted(tmp_path):
    text = (ROOT / "docs/observability.md").read_text()
    [config] = re.findall(r"```yaml\n(# prometheus.yml.*?)```", text, re.DOTALL)
    config = config.replace("/etc/prometheus/rules.yaml", str(RULES))
    token = tmp_path / "token"
    token.write_text("t" * 40)
    config = config.replace("/etc/prometheus/token", str(token))
    (tmp_path / "prometheus.yml").write_text(config)

    code, said = promtool("check", "config", tmp_path / "prometheus.yml")
    assert code == 0, said
    # The control.
    (tmp_path / "prometheus.yml").write_text(config.replace("scrape_configs", "scrape_config"))
    assert promtool("check", "config", tmp_path / "prometheus.yml")[0] != 0
    jobs = {one["job_name"] for one in yaml.safe_load(config)["scrape_configs"]}
    assert jobs == {
        f"strongroom-{one}"
        for one in ("web", "gateway", "worker", "beat", "node", "keybroker", "triton")
    }
