"""
The tables of docs/results.md, as Markdown, from the JSON files in benchmarks/results.

    python -m benchmarks.results_page
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import long_run, memory_table
from sb3_matrl.zoo.benchmarking.comparison import ALL_ENVS
from sb3_matrl.zoo.common.text_tables import markdown
from sb3_matrl.zoo.tournaments.tournament_results import mean_text

RESULTS = Path("benchmarks/results")


def with_interval(row: dict[str, Any], key: str, interval: str) -> str:
    low, high = row[interval]
    return f"{row[key]:.2f} [{low:.2f}, {high:.2f}]"


def zero_sum(record: dict[str, Any]) -> str:
    """Settings by game and entropy: NashConv with its interval."""
    columns = list(dict.fromkeys((row["game"], row["ent_coef"]) for row in record["table"]))
    cells = {
        (row["setting"], row["game"], row["ent_coef"]): with_interval(row, "nash_conv", "ci95") for row in record["table"]
    }
    settings = dict.fromkeys(row["setting"] for row in record["table"])
    rows = [[setting, *(cells.get((setting, *column), "") for column in columns)] for setting in settings]
    return markdown(["", *(f"{game}, entropy {ent_coef:g}" for game, ent_coef in columns)], rows)


def grid_world(record: dict[str, Any]) -> str:
    """Settings by team return: late training, final sampled, final greedy."""
    kinds = ("last_10_iterations", "sampled", "greedy")
    rows = [
        [
            row["setting"],
            str(row["seeds"]),
            *(with_interval(row, kind, f"{kind}_ci95") for kind in kinds),
            f"{row['mean_rho']:.3f}",
        ]
        for row in record["table"]
    ]
    return markdown(["", "seeds", "last 10 iterations", "final, sampled", "final, greedy", "mean rho"], rows)


def speed(record: dict[str, Any]) -> str:
    """Milliseconds per phase and steps per second."""
    known = ("collect", "stepping", "alone", "predict", "metagame", "best_response", "iteration")
    phases = [phase for phase in known if phase in record["table"][0]]
    rows = [
        [
            row["env"],
            row["algorithm"],
            str(row["agents"]),
            *(f"{row[phase]:.1f}" for phase in phases),
            f"{row['steps_per_second']:.0f}",
        ]
        for row in record["table"]
    ]
    return markdown(["env", "algorithm", "agents", *(f"{phase} ms" for phase in phases), "steps/s"], rows)


def speed_peers(record: dict[str, Any]) -> str:
    """Speeds beside other software, gradient steps of MATRL and IPPO, time per agent, memory, and `make train`."""
    tables = [_speed_summary(record), *(_speed_table(column) for column in record["columns"])]
    tables += ["MATRL's time / IPPO's with as many gradient steps:\n\n" + _equal_steps(record)]
    tables += ["Milliseconds per iteration and agent:\n\n" + _time_per_agent(record)]
    if "memory" in record:
        rows = [[row["contestant"], f"{row['peak_mib']:.0f}"] for row in record["memory"]]
        tables.append("Peak memory in Checkers, 20 copies:\n\n" + markdown(["backend", "MiB"], rows))
    if "train" in record:
        rows = [[row["backend"], f"{row['steps']:,}", f"{row['median_seconds']:.1f}"] for row in record["train"]]
        tables.append("`make train`:\n\n" + markdown(["backend", "steps", "seconds"], rows))
    return "\n\n".join([*tables, *record["skipped"]])


def _speed_summary(record: dict[str, Any]) -> str:
    """Columns by contestant: ratios to PettingZoo's tutorial, and the native kernel's time over the floor."""
    ours = [f"{algorithm} ({backend})" for algorithm in ("ippo", "matrl") for backend in record["backends"]]
    peers = [row["contestant"] for row in record["columns"][0]["rows"] if "BenchMARL" in row["contestant"]]
    lines = []
    for column in record["columns"]:
        rows = {row["contestant"]: row for row in column["rows"]}
        ratios = (f"{rows[name]['ratio']['median']:.2f}" if name in rows else "" for name in (*ours, *peers))
        fastest = rows[f"ippo ({record['backends'][-1]})"]
        lines.append([column["label"], str(column["agents"]), *ratios, f"{fastest['times_floor']:.2f}"])
    header = ["times the tutorial", "agents", *ours, *peers, f"ippo ({record['backends'][-1]}) / floor"]
    return markdown(header, lines)


def _speed_table(column: dict[str, Any]) -> str:
    """Contestants of a column: speed, ratio to PettingZoo's tutorial, and time as a multiple of the floor."""
    rows = [
        [
            row["contestant"],
            f"{row['gradient_steps']}",
            f"{row['env_steps_per_second']:.0f}",
            _ratio(row["ratio"]),
            f"{row['times_floor']:.2f}",
        ]
        for row in column["rows"]
    ]
    floors = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in column["floor_seconds"].items())
    header = ["contestant", "gradient steps", "env steps/s", "x tutorial", "x floor"]
    agents, peak = column["agents"], column["gemm_peak_gflops"]
    title = f"{column['label']}: {agents} agents, {column['env_steps']} env steps per iteration; floor: {floors}"
    return f"{title} (up to {peak:.0f} GFLOP/s)\n\n{markdown(header, rows)}"


def _equal_steps(record: dict[str, Any]) -> str:
    rows = [
        [column["label"], *(_ratio(row["matrl_to_ippo"]) for row in column["rows"] if "matrl_to_ippo" in row)]
        for column in record["columns"]
    ]
    return markdown(["", *record["backends"]], rows)


def _time_per_agent(record: dict[str, Any]) -> str:
    columns = sorted((c for c in record["columns"] if c["column"] == f"n{c['agents']}"), key=lambda column: column["agents"])
    names = dict.fromkeys(row["contestant"] for column in columns for row in column["rows"])
    times = {(c["agents"], row["contestant"]): 1e3 * row["seconds_per_agent"] for c in columns for row in c["rows"]}
    agents = [column["agents"] for column in columns]
    rows = [[name, *(f"{times[n, name]:.1f}" if (n, name) in times else "" for n in agents)] for name in names]
    return markdown(["", *(f"{n} agents" for n in agents)], rows)


def _ratio(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} [{values['low']:.2f}, {values['high']:.2f}]"


def comparison(record: dict[str, Any]) -> str:
    """Of zoo/benchmark.py: team returns of every setting, with their intervals."""
    rows = [
        [
            row["env"],
            row["setting"],
            str(row["seeds"]),
            f"{row['env_steps']:,}",
            f"{row['gradient_steps']:,}",
            *(
                f"{row[f'{kind}_mean']:.0f} [{row[f'{kind}_mean_low']:.0f}, {row[f'{kind}_mean_high']:.0f}]"
                for kind in ("sampled", "greedy")
            ),
        ]
        for row in record["table"]
        if row["env"] != ALL_ENVS
    ]
    return markdown(["env", "setting", "seeds", "env steps", "gradient steps", "sampled", "greedy"], rows)


def solvers(record: dict[str, Any]) -> str:
    """Worst lines of each method over the kinds of game."""
    rows = []
    for n_agents, method in dict.fromkeys((row["n_agents"], row["method"]) for row in record["rows"]):
        lines = [row for row in record["rows"] if (row["n_agents"], row["method"]) == (n_agents, method)]
        worst, accepted = max(row["max"] for row in lines), min(row["share_accepted"] for row in lines)
        times = f"{min(row['mean_ms'] for row in lines):.1f} to {max(row['mean_ms'] for row in lines):.1f}"
        rows.append([str(n_agents), method, str(lines[0]["games"]), f"{worst:.1e}", f"{accepted:.0%}", times])
    return markdown(["agents", "method", "games per kind", "largest NashConv / scale", "within 1e-6", "mean ms"], rows)


def sweep(record: dict[str, Any]) -> str:
    """Best and default hyper-parameters on fresh seeds, and their difference."""
    rows = [
        [name, with_interval(row, "mean", "ci95"), ", ".join(f"{value:.2f}" for value in row["values"])]
        for name, row in record["comparison"]["table"].items()
    ]
    return markdown(["", record["sweep"]["metric"]["name"], "per seed"], rows)


def suite(record: dict[str, Any]) -> str:
    """
    Tasks by methods: interquartile mean of the score with its interval; ``+`` where a method is better than the reference, and
    ``-`` where it is worse. Below, the number of tasks by outcome.
    """
    tables = []
    for score, title in SUITE_SCORES.items():
        tasks = [task for task in record["tasks"] if task["score"] == score]
        if tasks:
            tables.append(f"{title}:\n\n{_suite_table(tasks)}")
    outcomes: dict[str, Counter[str]] = {}
    for row in (row for task in record["tasks"] for row in task["rows"] if row["verdict"]):
        outcomes.setdefault(row["method"], Counter())[row["verdict"]] += 1
    lines = [[method, *(str(count[kind]) for kind in SUITE_SIGNS)] for method, count in outcomes.items()]
    tables.append("Tasks by outcome:\n\n" + markdown(["", *SUITE_SIGNS], lines))
    if all("mean_rho" in row for task in record["tasks"] for row in task["rows"]):
        tables.append("Mean rho:\n\n" + _mean_rhos(record["tasks"]))
    return "\n\n".join(tables)


def _mean_rhos(tasks: list[dict[str, Any]]) -> str:
    """Weight of the current policies in the meta-strategies, of the methods that play the meta-game."""
    rhos = {(task["name"], row["method"]): row["mean_rho"] for task in tasks for row in task["rows"]}
    methods = [one for one in dict.fromkeys(method for _, method in rhos) if one.startswith("matrl")]
    names = [task["name"] for task in tasks]
    rows = [[name, *(f"{rhos[name, one]:.2f}" if (name, one) in rhos else "" for one in methods)] for name in names]
    return markdown(["task", *methods], rows)


SUITE_SIGNS = {"better": " +", "even": "", "worse": " -"}
SUITE_SCORES = {
    "welfare": "Welfare over the training",
    "nash_conv": "NashConv, less is better",
    "return": "Team return at the end",
}


def _suite_table(tasks: list[dict[str, Any]]) -> str:
    methods = dict.fromkeys(row["method"] for task in tasks for row in task["rows"])
    rows = []
    for task in tasks:
        cells = {row["method"]: _suite_cell(row) for row in task["rows"]}
        seeds = sorted({row["seeds"] for row in task["rows"]})
        rows.append([task["name"], "-".join(map(str, seeds)), *(cells.get(method, "") for method in methods)])
    return markdown(["task", "seeds", *methods], rows)


def _suite_cell(row: dict[str, Any]) -> str:
    interval = "" if row["score_low"] is None else f" [{row['score_low']:.2f}, {row['score_high']:.2f}]"
    return f"{row['score']:.2f}{interval}{SUITE_SIGNS.get(row['verdict'], '')}"


def tuning(record: dict[str, Any]) -> str:
    """Mean scores of the best and of the median settings of every method in the search, and the settings that it chose."""
    methods = dict.fromkeys(method for task in record["tasks"].values() for method in task["methods"])
    searches = [(name, method, one) for name, task in record["tasks"].items() for method, one in task["methods"].items()]
    names = [name for name in TUNED if any(name in one["chosen"] for *_, one in searches)]
    rows, settings = [], []
    for name, task in record["tasks"].items():
        found = task["methods"]
        sign = -1.0 if task["score"] == "nash_conv" else 1.0
        rows.append([name, *(_searched(found[method]["trials"], sign) if method in found else "" for method in methods)])
    for name, method, one in searches:
        values = (_setting(one["chosen"].get(key, "")) for key in names)
        settings.append([name, method, str(len(one["trials"])), *values])
    chosen = markdown(["task", "method", "trials", *(TUNED[name] for name in names)], settings)
    return f"{markdown(['task', *methods], rows)}\n\nChosen settings:\n\n{chosen}"


def _setting(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


TUNED = {
    "learning_rate": "learning rate",
    "br_learning_rate": "best response",
    "clip_range": "clip range",
    "ent_coef": "entropy",
}


def _searched(trials: list[dict[str, Any]], sign: float) -> str:
    values = sorted((trial["value"] for trial in trials if trial["value"] is not None), key=lambda value: -sign * value)
    return f"{values[0]:.2f} ({statistics.median(values):.2f})"


def congestion(record: dict[str, Any]) -> str:
    """Regret of every method at every learning rate, by number of agents and clip range."""
    rates = list(dict.fromkeys(row["learning_rate"] for row in record["table"]))
    lines: dict[tuple[str, ...], dict[float, str]] = {}
    for row in record["table"]:
        key = (str(row["n_agents"]), f"{row['clip_range']:g}", row["method"])
        lines.setdefault(key, {})[row["learning_rate"]] = with_interval(row, "regret", "ci95")
    rows = [[*key, *(cells.get(rate, "") for rate in rates)] for key, cells in lines.items()]
    return markdown(["agents", "clip range", "method", *(f"learning rate {rate:g}" for rate in rates)], rows)


def kill_test(record: dict[str, Any]) -> str:
    """Signals by what became of the trainings."""
    rows = [
        [
            {"kill": "SIGKILL", "term": "SIGTERM"}[kind],
            str(row["trials"]),
            str(row["signal_before_the_end"]),
            str(row["identical"]),
            f"{row['slowest_stop_seconds']:.2f}",
        ]
        for kind, row in record["summary"].items()
    ]
    return markdown(["signal", "trials", "stopped in mid-training", "identical after resume", "slowest stop (s)"], rows)


def corruption(record: dict[str, Any]) -> str:
    """Damaged files by what became of them."""
    return markdown(["trials", *record["totals"]], [[str(record["trials"]), *map(str, record["totals"].values())]])


def pong(record: dict[str, Any]) -> str:
    """Share of points that every player wins against chance."""
    rows = [
        [row["algorithm"], row["player"], with_interval(row, "share", "ci95"), ", ".join(f"{s:.2f}" for s in row["per_seed"])]
        for row in record["table"]
    ]
    return markdown(["algorithm", "player", "points won", "per seed"], rows)


def cross_play(record: dict[str, Any]) -> str:
    """Mean returns of every role by the runs that play it and the other role, and the cycles among each run's snapshots."""
    summary = record["summary"]
    parts = []
    for role, pairs in summary["groups"].items():
        names = list(dict.fromkeys(pair.split(" / ")[0] for pair in pairs))
        rows = [[one, *(mean_text(pairs[f"{one} / {two}"]) for two in names)] for one in names]
        parts.append(markdown([f"as {role}, against", *names], rows))
    cycles = [[name, *_cycle_cells(found)] for name, found in summary["cycles"].items()]
    parts.append(markdown(["players", "cyclic triples", "decided and cyclic", "cyclic part of the payoffs"], cycles))
    return "\n\n".join(parts)


def _cycle_cells(found: dict[str, Any]) -> list[str]:
    low, high = found["triples_interval"]
    share = "cannot be told"
    if found["share"] is not None:
        share = f"{found['share']:.0%} [{found['share_interval'][0]:.0%}, {found['share_interval'][1]:.0%}]"
    return [f"{found['triples']:.0%} [{low:.0%}, {high:.0%}]", f"{found['decided_cyclic']} of {found['decided']}", share]


def long_training(record: dict[str, Any]) -> str:
    """What the process had of the system, step by step."""
    return long_run.table(record["rows"])


def value_games(record: dict[str, Any]) -> str:
    """Greedy returns of every method, and what seed 0 learned beside the published tables."""
    rows = [
        [row["game"], row["method"], ", ".join(f"{value:g}" for value in row["greedy_returns"])] for row in record["table"]
    ]
    tables = [markdown(["game", "method", "greedy return by seed"], rows)]
    first = {(run["game"], run["method"]): run["learned"] for run in record["runs"] if run["seed"] == 0}
    lines = []
    for row in record["table"]:
        published = row["published"] or {}
        for place, learned in first[row["game"], row["method"]].items():
            theirs: dict[str, Any] = {"q_tot": published.get(place)} if place else published
            for kind in ("utilities", "q_tot"):
                if theirs.get(kind):
                    name = " ".join(filter(None, (row["game"], place)))
                    lines.append([name, row["method"], kind, _matrix(learned[kind]), _matrix(theirs[kind])])
    return "\n\n".join([*tables, markdown(["game and state", "method", "values", "learned, seed 0", "published"], lines)])


def _matrix(values: list[list[float]]) -> str:
    return "; ".join(", ".join(f"{value:.2f}" for value in row) for row in values)


def rollout_workers(record: dict[str, Any]) -> str:
    """Speed beside a training without workers, split of an iteration by the number of workers, and kills."""
    scaling, kills = record["scaling"], record["kills"]
    split = [
        [
            str(row["workers"]),
            *(f"{row[f'{part}_ms']:.0f}" for part in ("collect", "transfer", "merge", "update")),
            f"{row['mib_per_iteration']:.1f}",
            f"{row['efficiency']:.2f}",
        ]
        for row in scaling["rows"]
    ]
    split_header = ["workers", *(f"{part} ms" for part in ("collect", "transfer", "merge", "update")), "MiB", "efficiency"]
    seconds = [f"{kills[name]:.2f}" for name in ("rollout_seconds", "slowest_rollout_seconds")]
    killed = [str(kills["kills"]), str(kills["restarts"]), str(kills["identical"]), *seconds]
    tables = [_worker_speed(record["speed"]), _worker_speed(record["off-policy"]), markdown(split_header, split)]
    if "anchor" in record:
        names = ("sb3_matrl_ms", "torchrl_ms")
        beside = [[str(row["workers"]), *(f"{row[name]:.0f}" for name in names)] for row in record["anchor"]]
        tables.append(markdown(["workers on Ray", "sb3-matrl, ms beyond the sleep", "TorchRL"], beside))
    kills_header = ["kills", "restarts", "identical parameters", "usual rollout (s)", "slowest rollout (s)"]
    return "\n\n".join([*tables, markdown(kills_header, [killed])])


def _worker_speed(rows: list[dict[str, Any]]) -> str:
    """Speed beside a training without workers and one with one worker."""
    found, kinds = [], ["algorithm"] if "algorithm" in rows[0] else []
    for row in rows:
        of_env = [one for one in rows if one["env"] == row["env"]]
        base, single = (next(one for one in of_env if one["rollout_workers"] == workers) for workers in (None, 1))
        workers = f"{row['rollout_workers']} ({row['worker_backend']})" if row["rollout_workers"] else "none"
        collect = row["collect_steps_per_second"]
        ratios = (collect / one["collect_steps_per_second"] for one in (base, single))
        numbers = [f"{collect:.0f}", *(f"{ratio:.2f}" for ratio in ratios), f"{row['steps_per_second']:.0f}"]
        names = [row[kind] for kind in (*kinds, "env")]
        found.append([*names, str(row["n_envs"]), workers, *numbers, row["parameter_hash"]])
    header = [*kinds, "env", "copies", "workers", "collected steps/s", "x no workers", "x 1 worker", "steps/s", "parameters"]
    return markdown(header, found)


def memory(record: dict[str, Any]) -> str:
    """Sizes of buffers, as they are and as arrays of float32, and the largest resident set of the process."""
    return memory_table.table(record["table"])


def central_critic(record: dict[str, Any]) -> str:
    """Mean team return of the last five rollouts, for each seed."""
    rows = [
        [row["env"], row["method"], ", ".join(f"{value:.2f}" for value in row["last_5_rollouts"])] for row in record["table"]
    ]
    return markdown(["env", "method", "last 5 rollouts, by seed"], rows)


def off_policy_speed(record: dict[str, Any]) -> str:
    """Joint steps per second of both libraries, by the clock and by processor time, and their ratio."""
    rows = []
    for name, rates in record["results"].items():
        for kind, title in (("env_steps_per_second", "clock"), ("env_steps_per_cpu_second", "processor")):
            speeds = (f"{rates[who][kind]:,.0f}" for who in ("sb3-matrl", "BenchMARL"))
            rows.append([name, title, *speeds, f"{rates[f'ratio_of_{kind}']:.1f}"])
    return markdown(["algorithm", "time", "sb3-matrl, steps/s", "BenchMARL, steps/s", "ratio"], rows)


def recurrent_speed(record: dict[str, Any]) -> str:
    """Joint steps per second of recurrent learners, and how many times as many as with sb3-contrib's update."""
    rows = [
        [
            row["env"],
            str(row["agents"]),
            row["algorithm"],
            *(f"{row[name]:,.0f}" for name in ("auto", "sb3")),
            f"{row['ratio']:.1f}",
        ]
        for row in record["table"]
    ]
    return markdown(["env", "agents", "algorithm", "`auto`, steps/s", "`sb3`, steps/s", "ratio"], rows)


def gpu_check(record: dict[str, Any]) -> str:
    """Equality, epochs of stacked updates, gradient steps from a replay buffer, and trainings, on the CPU and on the GPU."""
    largest = max(record["equality"], key=lambda row: row["difference"])
    equality = f"Largest difference of a parameter: {largest['difference']:.0e} ({len(record['equality'])} learners)"
    epochs = [
        [
            *(str(row[name]) for name in ("n_agents", "minibatch", "width")),
            f"{row['work'] / 1e6:,.1f}",
            *(f"{1000 * row[name]:,.1f}" for name in ("cpu", "cpu_all_cores", "device", "device_one_by_one")),
        ]
        for row in sorted(record["crossover"], key=lambda row: row["work"])
    ]
    sizes, places = ["agents", "minibatch", "width", "work, millions"], ["one core", "all cores", "GPU", "GPU, one by one"]
    steps = [
        [row["algorithm"], str(row["batch_size"]), *(f"{1000 * row[name]:.1f}" for name in ("cpu", "device"))]
        for row in record["replay"]
    ]
    tables = [
        markdown([*sizes, *(f"{place}, ms" for place in places)], epochs),
        markdown(["algorithm", "batch", "one core, ms", "GPU, ms"], steps),
        _gpu_trainings(record["trainings"]),
    ]
    return "\n\n".join([equality, *tables])


def _gpu_trainings(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            row["world"],
            f"`{row['backend']}`",
            "CPU" if row["device"] == "cpu" else "GPU",
            *(f"{1000 * row[name]:,.0f}" for name in ("collect", "update")),
            f"{row['steps_per_second']:,.0f}",
        ]
        for row in sorted(rows, key=lambda row: row["agents"] if row["world"].endswith("agents") else 1000)
    ]
    return markdown(["world", "backend", "device", "collect, ms", "update, ms", "steps/s"], cells)


RENDERERS = {
    "gpu_check": gpu_check,
    "kill_test": kill_test,
    "kill_test_qmix": kill_test,
    "value_games": value_games,
    "off_policy_speed": off_policy_speed,
    "recurrent_speed": recurrent_speed,
    "rollout_workers": rollout_workers,
    "central_critic": central_critic,
    "memory": memory,
    "congestion": congestion,
    "actor_critic_hopper": comparison,
    "corruption_test": corruption,
    "pong": pong,
    "pong_crossplay": cross_play,
    "long_run": long_training,
    "speed_worlds": speed,
    "speed_pixels": speed,
    "hopper_3x1": comparison,
    "swimmer_2x1": comparison,
    "ant_2x4": comparison,
    "value_based_checkers": comparison,
    "value_based_switch": comparison,
    "value_based_switch_qdpp": comparison,
    "sweep_checkers": sweep,
    "tuning": tuning,
    "zero_sum": zero_sum,
    "speed": speed,
    "speed_peers": speed_peers,
    "metagame_solvers": solvers,
}


def main() -> None:
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        render = RENDERERS.get(path.stem, grid_world if "preset" in record else suite if "suite" in record else None)
        if render is not None:
            print(f"{path.stem} ({record['machine']['command']})\n\n{render(record)}\n")


if __name__ == "__main__":
    main()
