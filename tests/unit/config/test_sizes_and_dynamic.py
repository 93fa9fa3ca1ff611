"""Sizes, dynamic queues and the placement that makes them, in the policy file."""

from __future__ import annotations

import pytest

from slurmext.config.policy import SitePolicy, parse_policy
from slurmext.config.sizes import minutes_of
from slurmext.config.submit_table import NameService, queues_tsv
from slurmext.config.yaml_errors import ConfigError

HEAD = "version: 1\n"
POLICY = """\
version: 1
settings: {default_queue: "research/{user}"}
placement:
  - {group: students, queue: "teaching/{user}"}
  - {account: nlp, queue: "{account}"}
  - {partition: debug, queue: "research/{group}"}
sizes:
  small: {gpus_per_node: 1, cpus_per_gpu: 8, memory_per_gpu: 64G, time: "4:00:00", types: [h100]}
  large: {nodes: 2, gpus_per_node: 8, tasks_per_node: 8}
queues:
  research: {guaranteed: 16, max: 32, acl: {users: [ann]}, dynamic: {max: 50%, weight: 2, each_user: {max: 4}, over_max: hold}}
  teaching: {guaranteed: 8, over_max: hold, dynamic: }
  nlp: {}
"""
NAMES = NameService(members=lambda _: ["bob"], gid=lambda _: 700, all_gids=lambda: {"staff": 50})


@pytest.fixture
def policy() -> SitePolicy:
    return parse_policy(POLICY)


def test_the_submit_table_has_templates_groups_sizes_and_what_dynamic_children_are_like(policy: SitePolicy) -> None:
    """One line each; a child's max is no more than its parent's."""
    assert queues_tsv(policy, NAMES) == (
        "#default\tresearch/{user}\n"
        "#het\tpass\n"
        "#rule\t\t\t\tteaching/{user}\tstudents\n"
        "#rule\t\tnlp\t\t{account}\t\n"
        "#rule\t\t\tdebug\tresearch/{group}\t\n"
        "#group\tstudents\t700\tbob\n"
        "#gid\t50\tstaff\n"
        "#size\tsmall\t1\t1\t\t8\t65536\t240\th100\n"
        "#size\tlarge\t2\t8\t8\t\t\t\t\n"
        "research\t0\t32\trefuse\tann\t\n"
        "research/*\t1\t16\thold\tann\t\n"
        "teaching\t0\t\thold\t\t\n"
        "teaching/*\t1\t\thold\t\t\n"
        "nlp\t1\t\trefuse\t\t\n"
    )


def test_a_dynamic_queue_is_there_as_soon_as_it_is_asked_for(policy: SitePolicy) -> None:
    """After its parent, with its parent's ACL and what `dynamic` says; no other path becomes a queue."""
    found = policy.including(["research/ann", "research/a b", "research/ann/x", "nowhere/ann", "nlp/ann", "nlp"])
    assert [queue.path for queue in found.queues] == ["research", "research/ann", "teaching", "nlp"]
    child = found.by_path["research/ann"]
    assert (child.max, child.weight, child.each_user_max, child.guaranteed) == (16, 2, 4, 0)
    assert child.shares_guarantee
    assert found.over_max["research/ann"] == "hold"
    assert (found.effective_max("research/ann"), found.guaranteed("research")) == (16, 16)
    assert found.may_use("research/ann", user="ann")
    assert not found.may_use("research/ann", user="bob")
    assert policy.including(["nlp"]) is policy


@pytest.mark.parametrize(
    ("user", "account", "partition", "groups", "queue"),
    [
        ("ann", "nlp", "p", ("staff", "students"), "teaching/ann"),
        ("ann", "nlp", "p", ("staff",), "nlp"),
        ("ann", "", "debug", ("staff",), "research/staff"),
        ("ann", "", "debug", (), "research/ann"),  # a group nobody knows makes no queue: the rule does not match
        ("ann", "", "p", ("staff",), "research/ann"),
        ("ann@ad", "", "p", ("staff",), None),  # no queue has such a name
        ("../x", "", "p", (), None),
    ],
)
def test_templates_are_filled_with_what_the_job_has(
    policy: SitePolicy, user: str, account: str, partition: str, groups: tuple[str, ...], queue: str | None
) -> None:
    """The first rule that matches and makes a queue."""
    model = policy.as_model(1)
    assert model.queue_of(asked=None, user=user, account=account, partition=partition, groups=groups) == queue


def test_a_user_named_like_a_listed_queue_gets_no_queue_twice() -> None:
    """A listed child comes before a dynamic one; where it takes no jobs, the template makes none."""
    model = parse_policy(
        HEAD + "settings: {default_queue: 'r/{user}'}\n"
        "queues: {r: {dynamic: {}, children: {ann: {}, bob: {children: {x: {}}}}}}\n"
    ).as_model(1)
    asked = {"asked": None, "account": "", "partition": ""}
    assert model.queue_of(user="ann", **asked) == "r/ann"
    assert model.queue_of(user="bob", **asked) is None
    assert model.dynamic_queue("r/ann") is None
    assert model.dynamic_queue("r/cem") is not None


def test_a_dynamic_parent_keeps_its_guarantee_whoever_comes() -> None:
    """Not written: what the listed children have, and never the sum of what comes and goes."""
    policy = parse_policy(HEAD + "queues: {r: {dynamic: {}, children: {a: {guaranteed: 3}}}}\n")
    assert policy.by_path["r"].guaranteed == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("queues: {a: {dynamic: {guaranteed: 4}}}", "queues.a.dynamic.guaranteed: each queue would be guaranteed 4"),
        ("queues: {a: {dynamic: {children: {b: {}}}}}", "queues.a.dynamic.children: a queue that exists once"),
        ("queues: {a: {dynamic: {acl: {users: [x]}}}}", "queues.a.dynamic.acl: a queue that exists once"),
        ("queues: {a: {dynamic: {wait: 1}}}", "queues.a.dynamic.wait"),
        ("queues: {a: {max: 4, dynamic: {max: 200%}}}", "queues.a.dynamic.max: must be a number of GPUs"),
        ("placement: [{queue: 'a/{user}', user: x}]\nqueues: {a: {}}", "a needs 'dynamic: {}'"),
        ("placement: [{queue: 'b/{user}', user: x}]\nqueues: {a: {dynamic: {}}}", "there is no queue 'b'"),
        ("placement: [{queue: 'a/{usr}', user: x}]\nqueues: {a: {dynamic: {}}}", "'{usr}' stands for nothing"),
        ("placement: [{queue: 'a/{user', user: x}]\nqueues: {a: {dynamic: {}}}", "a brace without its other"),
        ("placement: [{queue: a, user: x}]\nqueues: {a: {dynamic: {}}}", "a/{user}"),
        ("placement: [{queue: a}]\nqueues: {a: {}}", "matches every job; name a user, a group"),
        ("sizes: {s: {nodes: 2}}\nqueues: {a: {}}", "sizes.s: a size has gpus_per_node (1 or more), or one of"),
        ("sizes: {s: {gpus_per_node: 0}}\nqueues: {a: {}}", "sizes.s: a size has gpus_per_node (1 or more)"),
        ("sizes: {s: {gpus_per_node: 1, gpu_slice: 1g.10gb}}\nqueues: {a: {}}", "or one of gpu_slice"),
        ("sizes: {s: {gpu_slice: 1g.10gb, gpu_mem: 1G}}\nqueues: {a: {}}", "a profile, or memory and compute"),
        ("sizes: {s: {gpu_share: 0%,mem=1G}}\nqueues: {a: {}}", "--gpu-share=0%"),
        ("sizes: {s: {gpus_per_node: 1, memory_per_gpu: 64}}\nqueues: {a: {}}", "sizes.s.memory_per_gpu"),
        ("sizes: {s: {gpus_per_node: 1, memory_per_gpu: 64GB}}\nqueues: {a: {}}", "for example 64G"),
        ("sizes: {s: {gpus_per_node: 1, time: soon}}\nqueues: {a: {}}", "'soon' is no time limit"),
        ("sizes: {s: {gpus_per_node: 1, time: '0:00'}}\nqueues: {a: {}}", "is no time limit"),
        ("sizes: {a/b: {gpus_per_node: 1}}\nqueues: {a: {}}", "'a/b' is no queue name"),
        ("sizes: {s: {gpus: 1}}\nqueues: {a: {}}", "sizes.s.gpus"),
    ],
)
def test_mistakes_are_told_where_they_stand(text: str, message: str) -> None:
    """Key, rule and remedy."""
    with pytest.raises(ConfigError) as raised:
        parse_policy(HEAD + text + "\n")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:00", 90), ("90:01", 91), ("1:30:00", 90), ("1-0", 1440), ("1-12", 2160), ("1-12:30", 2190)],
)
def test_time_limits_are_read_as_sbatch_does(text: str, minutes: int) -> None:
    """minutes, minutes:seconds, hours:minutes:seconds, days-hours…; seconds round up."""
    assert minutes_of(text) == minutes
