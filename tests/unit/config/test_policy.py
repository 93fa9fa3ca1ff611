"""The policy file: what it means, and how each mistake is reported."""

from __future__ import annotations

import json
import re
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmext.config.policy import parse_policy
from slurmext.config.policy_diff import diff_policies
from slurmext.config.policy_document import OverMax
from slurmext.config.policy_edit import parse_changes, set_queue
from slurmext.config.submit_table import NameService, queues_tsv
from slurmext.config.yaml_errors import ConfigError
from slurmext.errors import UsageError
from slurmext.model.queue import FenceMode, IdleAction, IdleRule


def text_of(queues: str, head: str = "") -> str:
    return (
        f"version: 1\n{textwrap.dedent(head)}queues:\n" + textwrap.indent(textwrap.dedent(queues).strip(), "  ") + "\n"
    )


def errors(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_policy(text, "p.yaml")
    return str(caught.value).splitlines()


def test_nested_queues_become_paths_with_shares_of_the_parent_rounded_down() -> None:
    """50% of 15 is 7; a queue with nothing after its name has every default."""
    policy = parse_policy(text_of("org: {guaranteed: 15, max: 33, children: {a: {guaranteed: 50%, max: 22.5%}, b: }}"))
    assert [(q.path, q.guaranteed, q.max) for q in policy.queues] == [
        ("org", 15, 33),
        ("org/a", 7, 7),
        ("org/b", None, None),
    ]
    assert policy.leaves == ("org/a", "org/b")
    assert policy.effective_max("org/b") == 33


def test_a_parent_without_a_number_guarantees_the_sum_of_its_children() -> None:
    """The model keeps None; the effective number is the sum."""
    policy = parse_policy(text_of("org: {children: {a: {guaranteed: 3}, b: {children: {c: {guaranteed: 4}}}}}"))
    assert policy.by_path["org"].guaranteed is None
    assert policy.guaranteed("org") == 7


@pytest.mark.parametrize(
    ("queues", "message"),
    [
        ("a: {guarantee: 3}", "p.yaml:3: queues.a.guarantee: unknown key, did you mean 'guaranteed'?"),
        ("a: {guaranteed: -1}", "p.yaml:3: queues.a.guaranteed: must be a number of GPUs"),
        ("a: {guaranteed: true}", "queues.a.guaranteed: must be a number of GPUs"),
        ("a: {guaranteed: 1.5}", "queues.a.guaranteed: must be a number of GPUs"),
        ("a: {guaranteed: 101%}", "queues.a.guaranteed: must be a number of GPUs"),
        ("a: {guaranteed: 10%}", "a queue at the top has no parent"),
        ("a: {children: {b: {max: 50%}}}", "is a share of a's max, which is not set"),
        ("a: {guaranteed: 8, max: 4}", "queues.a.max: 4 is below guaranteed 8"),
        ("a: {guaranteed: 4, reserved: 5}", "queues.a.reserved: 5 is above guaranteed 4"),
        ("a: {reserved: 5}", "queues.a.reserved: 5 is above guaranteed 0"),
        ("a: {guaranteed: 4, reserved: 1, lending_limit: 4}", "lending_limit: 4 is above guaranteed - reserved = 3"),
        ("a: {max: 4, children: {b: {guaranteed: 8}}}", "4 is below guaranteed 8, the sum of its children's"),
        ("a: {guaranteed: 4, by_type: {h100: {guaranteed: 3}, a100: {guaranteed: 2}}}", "guarantees 5 GPUs by type"),
        ("a: {guaranteed: 4, by_type: {h100: {guaranteed: 3, max: 2}}}", "by_type.h100.max: 2 is below guaranteed 3"),
        ("a: {weight: 0}", "queues.a.weight: input should be greater than 0"),
        ("a: {weight: .nan}", "queues.a.weight: "),
        ("a: {min_runtime_s: -1}", "queues.a.min_runtime_s: "),
        ("a: {min_runtime_s: .inf}", "queues.a.min_runtime_s: "),
        ("a: {fence: inn}", "queues.a.fence: must be 'none', 'in', 'out' or 'both', did you mean 'in'? (it is 'inn')"),
        ("a: {job_sort: 'priorty'}", "did you mean 'priority'?"),
        ("a: {over_max: maybe}", "queues.a.over_max: must be 'refuse' or 'hold'"),
        ("a/b: {}", "a queue below another goes under its 'children:'"),
        ("'a b': {}", "is no queue name"),
        ("7: {}", "the key 7 is no text; write it in quotes"),
        ("{b: 1}: {}", "the key ? is no text"),
        ("a: {acl: {}}", "queues.a.acl: lists nobody"),
        ("a: {acl: {users: ['x,y']}}", "queues.a.acl.users[0]: 'x,y' is no name"),
        ("a: {acl: {users: bob}}", "queues.a.acl.users: "),
        ("a: {users: {bob: {min: 1}}}", "queues.a.users.bob.min: unknown key; known: max"),
        ("a: 3", "queues.a: "),
        ("a: {}\na: {}", "p.yaml:4: queues.a: is there twice; the first is at line 3"),
        ("a: [", "p.yaml:"),
        ("a: &x {children: {b: *x}}", "an alias contains itself"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_line_key_and_rule(queues: str, message: str) -> None:
    """One line says where, what and what would be right."""
    assert message in "\n".join(errors(text_of(queues)))


def test_children_over_their_parent_are_reported_at_the_child_naming_both() -> None:
    """The line is the child's that goes over; the parent's line is in the message."""
    queues = """
        org:
          guaranteed: 16
          children:
            a: {guaranteed: 10}
            b:
              max: 16
              guaranteed: 50%
    """
    (line,) = errors(text_of(queues))
    assert line == (
        "p.yaml:9: queues.org.children.b.guaranteed: the children of org guarantee 18 GPUs (org/a 10 + org/b 8),"
        " more than org's own 16 (line 4); lower a child or raise org"
    )


def test_children_over_their_parent_in_one_gpu_type_are_reported() -> None:
    """Types are checked as the totals are."""
    queues = """
        org:
          guaranteed: 16
          by_type: {h100: {guaranteed: 4}}
          children:
            a: {guaranteed: 8, by_type: {h100: {guaranteed: 3}}}
            b: {guaranteed: 8, by_type: {h100: {guaranteed: 2}}}
    """
    (line,) = errors(text_of(queues))
    assert "p.yaml:8: queues.org.children.b.by_type.h100: the children of org guarantee 5 h100 GPUs" in line


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("settings: {default_queue: aa}\n", "p.yaml:2: settings.default_queue: there is no queue 'aa'"),
        ("settings: {default_queue: org}\n", "has queues below it, and jobs go to queues without children: org/a"),
        ("settings: {grace: 3}\n", "settings.grace: unknown key, did you mean 'grace_s'?"),
        ("settings: {preemption_budget: -1}\n", "settings.preemption_budget: "),
        ("settings: {preemption_budget: 1.5}\n", "settings.preemption_budget: "),
        ("settings: {consolidate: 7}\n", "settings.consolidate: "),
        ("placement: [{queue: org/a}]\n", "placement[0]: matches every job"),
        (
            "placement: [{queue: org/b, user: x}]\n",
            "placement[0].queue: there is no queue 'org/b', did you mean 'org/a'?",
        ),
        ("placement: [{user: x}]\n", "placement[0]: the key 'queue' is missing"),
    ],
)
def test_settings_and_placement_may_only_name_queues_that_take_jobs(head: str, message: str) -> None:
    """Targets are checked, with the nearest name."""
    assert message in "\n".join(errors(text_of("org: {children: {a: {}}}", head)))


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "[]", "version: 2\nqueues: {a: {}}", "version: 1", "queues: {a: {}}"]
)
def test_a_file_that_is_no_policy_is_refused(text: str) -> None:
    """Empty, a list, another version, without queues, without a version."""
    assert errors(text)[0].startswith("p.yaml:") or errors(text)[0].startswith("p.yaml: ")


def test_every_problem_is_reported_at_once_in_order_of_line() -> None:
    """An author mends a file in one go."""
    found = errors("version: 1\nsettings: {gracee: 1}\nqueues:\n  a: {wait: 1}\n  b:\n    max: x\n")
    assert [line.split(":")[1] for line in found] == ["2", "4", "6"]


def test_an_acl_holds_below_until_a_queue_has_its_own() -> None:
    """A child without one has its parent's; over_max is inherited the same way."""
    queues = """
        org:
          over_max: hold
          acl: {users: [u]}
          children: {a: {}, b: {over_max: refuse, acl: {accounts: [acc]}}}
        free: {}
    """
    policy = parse_policy(text_of(queues))
    assert policy.may_use("org/a", user="u")
    assert not policy.may_use("org/a", user="v", account="acc")
    assert policy.may_use("org/b", user="v", account="acc")
    assert not policy.may_use("org/b", user="u")
    assert policy.may_use("free", user="anyone")
    assert policy.over_max == {
        "org": OverMax.HOLD,
        "org/a": OverMax.HOLD,
        "org/b": OverMax.REFUSE,
        "free": OverMax.REFUSE,
    }


def test_queues_tsv_has_what_job_submit_checks() -> None:
    """Effective max, expanded groups, rules; an ACL of empty groups lets nobody in rather than everybody."""
    text = text_of(
        """
        org: {max: 8, acl: {groups: [g], users: [u]}, children: {a: {max: 16}, b: {acl: {groups: [empty]}}}}
        free: {over_max: hold}
        """,
        "settings: {default_queue: free}\nplacement: [{queue: org/a, account: acc, partition: p}]\n",
    )
    table = queues_tsv(parse_policy(text), NameService(members={"g": ["x", "w"], "empty": []}.__getitem__))
    assert table == (
        "#default\tfree\n"
        "#het\tpass\n"
        "#rule\t\tacc\tp\torg/a\t\n"
        "org\t0\t8\trefuse\tu,w,x\t\n"
        "org/a\t1\t8\trefuse\tu,w,x\t\n"
        "org/b\t1\t8\trefuse\t-\t\n"
        "free\t1\t\thold\t\t\n"
    )


def test_the_policy_becomes_the_model_that_decisions_use() -> None:
    """Version, knobs, budgets, rules and queues arrive unchanged."""
    head = (
        "settings: {default_queue: a, grace_s: 9, max_requeues_per_hour: 7, preemption_budget: 2}\n"
        "placement: [{queue: a, user: u}]\n"
    )
    model = parse_policy(text_of("a: {fence: both, priority: -3}", head)).as_model(4)
    assert (model.version, model.settings.grace_s, model.settings.preemption_budget) == (4, 9, 2)
    assert model.max_requeues_per_hour == 7
    assert model.queues[0].fence is FenceMode.BOTH
    assert model.queue_of(asked=None, user="u", account="", partition="") == "a"


EDITED = """\
# head
version: 1   # one
settings:
    default_queue: 'a/x'

placement:
  - user: bob   # who
    queue: a/x
queues:
    # about a
    a:
        guaranteed: 16   # sixteen
        children:
            x: {guaranteed: 50%, acl: {users: [u1, u2]}}  # flow
            y: {}
    b: {guaranteed: 4}
# tail
"""


def test_setting_a_number_changes_its_line_only() -> None:
    """Comments, quotes, order and indentation stay."""
    text, policy = set_queue(EDITED, "a", parse_changes({"guaranteed": "20"}))
    assert policy.by_path["a"].guaranteed == 20
    changed = [pair for pair in zip(EDITED.splitlines(), text.splitlines(), strict=True) if pair[0] != pair[1]]
    assert changed == [("        guaranteed: 16   # sixteen", "        guaranteed: 20   # sixteen")]


def test_idle_rules_can_be_set_key_by_key() -> None:
    """A queue gets a rule of its own, one number of it changes, and the rest stays."""
    text, policy = set_queue("version: 1\nqueues: {a: {}}\n", "a", parse_changes({"idle.after_s": "600"}))
    assert policy.by_path["a"].idle == IdleRule(after_s=600, grace_s=900)
    _, policy = set_queue(text, "a", parse_changes({"idle.action": "borrowed"}))
    assert policy.by_path["a"].idle == IdleRule(after_s=600, grace_s=900, action=IdleAction.BORROWED)


def test_deep_keys_lists_nulls_and_defaults_can_be_set() -> None:
    """Acl lists, by_type, users with dots in their names, null, and back to the default."""
    changes = parse_changes(
        {"acl.users": "q, r", "by_type.h100.max": "4", "users.al.ice.max": "3", "max": "null", "guaranteed": ""}
        | {"groups.stud.max": "16", "each_user.max": "2"}
    )
    _, policy = set_queue(EDITED, "a/x", changes)
    queue = policy.by_path["a/x"]
    assert policy.acls["a/x"].users == {"q", "r"}
    assert queue.by_type["h100"].max == 4
    assert queue.users["al.ice"].max == 3
    assert queue.groups["stud"].max == 16
    assert queue.each_user_max == 2
    assert (queue.max, queue.guaranteed) == (None, None)


def test_a_queue_can_be_added_under_one_that_is_there() -> None:
    """With create; the comments around stay."""
    text, policy = set_queue(EDITED, "b/new", parse_changes({"guaranteed": "2"}), create=True)
    assert policy.by_path["b/new"].guaranteed == 2
    assert "# sixteen" in text


@pytest.mark.parametrize(
    ("path", "changes", "create", "message"),
    [
        ("c", {"max": "1"}, False, "there is no queue 'c'"),
        ("c/d", {"max": "1"}, True, "create it first"),
        ("a", {"maxx": "1"}, False, "did you mean 'max'?"),
        ("a", {"children": "1"}, False, "is no key of a queue"),
        ("a", {"users.bob": "1"}, False, "is no key of a queue"),
        ("a", {"max": "8"}, False, "queues.a.max: 8 is below guaranteed 16"),
        ("a", {"max": "{"}, False, "not valid YAML"),
    ],
)
def test_a_wrong_change_is_refused(path: str, changes: dict[str, str], create: bool, message: str) -> None:
    """Unknown queue, unknown key, a policy that would not add up."""
    with pytest.raises((UsageError, ConfigError)) as caught:
        set_queue(EDITED, path, parse_changes(changes), create=create)
    assert message in str(caught.value)


def test_a_diff_names_queue_key_and_both_values() -> None:
    """Settings, changed keys, queues that come and go."""
    before = parse_policy(text_of("a: {guaranteed: 4}\nb: {}"))
    after = parse_policy(text_of("a: {guaranteed: 6}\nc: {max: 3}", "settings: {grace_s: 5}\n"))
    found = [(c.where, c.key, c.before, c.after) for c in diff_policies(before, after)]
    assert ("settings", "grace_s", "60", "5") in found
    assert ("a", "guaranteed", "4", "6") in found
    assert [(where, after is None) for where, key, _, after in found if key == ""] == [("b", True), ("c", False)]
    assert diff_policies(before, before) == []
    nested = parse_policy(text_of("a: {guaranteed: 4, dynamic: {max: 2}}\nb: {}"))
    found = [(c.where, c.key, c.before, c.after) for c in diff_policies(before, nested)]
    assert found == [("a", "dynamic.max", None, "2")]
    whole = {change.where: change.after or change.before for change in diff_policies(None, after)}
    assert whole == {"settings": "grace_s=5", "a": "guaranteed=6", "c": "max=3"}, "what is written, not every default"


def test_a_change_of_any_section_is_shown() -> None:
    """Whoever applies a policy sees all of what changes; a queue may be called like a section."""
    tree = text_of("slices: {guaranteed: 4}\nsettings: {max: 2}")
    before = parse_policy(tree + "slices: {pools: {h100: {min: 2, max: 8}, a30: {use: shared}}}\n")
    after = parse_policy(tree.replace("4", "5") + "slices: {pools: {h100: {min: 2, max: 6}}, oom_retry: true}\n")
    found = {(c.where, c.key, c.before, c.after) for c in diff_policies(before, after)}
    assert found == {
        ("slices", "pools.h100.max", "8", "6"),
        ("slices", "pools.a30.use", "shared", None),
        ("slices", "oom_retry", "false", "true"),
        ("slices", "guaranteed", "4", "5"),
    }
    shown = {change.where for change in diff_policies(None, after)}
    assert shown == {"slices", "settings"}
    assert set(type(after.document).model_fields) == {"version", "settings", "placement", "sizes", "slices", "queues"}


words = st.text(st.characters(codec="utf-8"), max_size=8)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=12,
)


@given(st.text(max_size=60) | trees.map(lambda tree: json.dumps({"version": 1, "queues": {"a": tree}})))
def test_any_text_is_a_policy_or_a_config_error(text: str) -> None:
    """Nothing that someone writes makes the reader fail in another way."""
    try:
        parse_policy(text)
    except ConfigError as error:
        assert error.problems  # noqa: PT017


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(0, 80))
def test_children_are_accepted_exactly_when_they_fit_their_parent(children: list[int], whole: int) -> None:
    """The law of the tree."""
    nested = ", ".join(f"c{i}: {{guaranteed: {n}}}" for i, n in enumerate(children))
    text = text_of(f"org: {{guaranteed: {whole}, children: {{{nested}}}}}")
    try:
        parse_policy(text)
    except ConfigError:
        assert sum(children) > whole
    else:
        assert sum(children) <= whole


def test_idle_rules_are_inherited_and_can_be_left():
    """A queue without an idle rule has its parent's; `{}` asks for the defaults, `none` leaves idle jobs alone."""
    text = """
version: 1
queues:
  a:
    idle: {after_s: 60, grace_s: 30, action: borrowed, max_extend_s: 7200}
    children: {b: {}, c: {idle: {action: none}, children: {e: {}}}, d: {idle: {}}}
  x: {}
"""
    rules = {queue.path: queue.idle for queue in parse_policy(text).queues}
    own = IdleRule(after_s=60, grace_s=30, action=IdleAction.BORROWED, max_extend_s=7200)
    defaults = IdleRule(after_s=3600, grace_s=900, action=IdleAction.REQUEUE, max_extend_s=86400)
    assert rules == {"a": own, "a/b": own, "a/c": None, "a/c/e": None, "a/d": defaults, "x": None}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("true", "policy:4: queues.a.idle: write 'idle: {}' for the defaults"),
        ("{after: 60}", "policy:4: queues.a.idle.after: unknown key, did you mean 'after_s'?"),
        ("{action: cancel}", "must be 'requeue', 'borrowed' or 'none'"),
        ("{grace_s: -1}", "queues.a.idle.grace_s: input should be greater than or equal to 0"),
    ],
)
def test_wrong_idle_rules_are_explained(written, message):
    """The line, the key, and what to write instead."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_policy(f"version: 1\nqueues:\n  a:\n    idle: {written}\n")
