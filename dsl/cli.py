"""`circ`, the command line. Parsing arguments imports neither torch nor lark; each verb imports what it needs.

Verbs that need a model call functions of `dsl.execute`, with options from `dsl.options`:

    run_spec(spec: Spec, options: RunOptions = RunOptions()) -> result with .passed: bool, .to_json()
    plan_spec(spec: Spec, options: PlanOptions = PlanOptions()) -> result with .to_json(), str()
    show(path: Path, options: ShowOptions) -> result with .to_json(), str()
    query(path: Path, query: QuerySpec) -> result with .to_json(), str()
    export(path: Path, options: ExportOptions) -> result with .to_json(), str()
    diff(first: Path, second: Path, options: DiffOptions) -> result with .same: bool, .to_json(), str()

Answers go to the standard output, everything else to the standard error. `dsl.execute` raises `GraphirError`, whose
`exit_code` becomes the program's.

Exit codes: 0 fine; 1 a finding or a failed check; 2 wrong usage; 3 a model or data set is not there; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

FAILED, INTERRUPTED = 1, 130
EPILOG = """\
examples:
  circ new ioi ioi.circ          write a specification to start from
  circ check ioi.circ            report its mistakes, all at once
  circ plan ioi.circ             what it would do, and how long that takes
  circ run ioi.circ --out runs/ioi
  circ query runs/ioi "heads where layer >= 20 top 5"
  circ explain C204              what a message means and what to do

exit codes: 0 fine, 1 a finding or failed check, 2 wrong usage, 3 model or data not available, 130 interrupted"""
NAMES = ("ours", "eap", "edge-pruning", "transformerlens", "auto-circuit")


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command; the exit code. No traceback unless `--traceback` asks for one."""
    arguments = build_parser().parse_args(argv)
    _limit_threads(getattr(arguments, "threads", None))
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away: nothing to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _dispatch(arguments: argparse.Namespace) -> int:
    from dsl import commands
    from graphir.errors import GraphirError

    verb: Callable[[argparse.Namespace], int] = getattr(commands, arguments.verb)
    if arguments.traceback:
        return verb(arguments)
    try:
        return verb(arguments)
    except GraphirError as error:
        return _report(arguments, error)
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f"`{error.filename}`: " if error.filename else ""
        print(f"error: {place}{(error.strerror or str(error)).lower()}", file=sys.stderr)
        return commands.USAGE
    except Exception as error:  # the last resort between a mistake of ours and the user
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        print("  help: this is a mistake in the program; `--traceback` shows where", file=sys.stderr)
        return FAILED


def _report(arguments: argparse.Namespace, error: Exception) -> int:
    from dsl.commands import answer, show_diagnostics

    diagnostics = getattr(error, "diagnostics", ())
    code = int(getattr(error, "exit_code", FAILED))
    if any(each.code == "C006" for each in diagnostics):
        code = 2
    if getattr(arguments, "json", False):
        found = [each.to_json() for each in diagnostics]
        message = getattr(error, "message", str(error)) if not found else "the file has mistakes"
        answer(
            arguments,
            {"error": message, "hints": list(getattr(error, "hints", ())), "diagnostics": found, "exit_code": code},
            "",
        )
    elif diagnostics:
        show_diagnostics(arguments, diagnostics)
    else:
        print(f"error: {error}", file=sys.stderr)
    return code


def _limit_threads(threads: int | None) -> None:
    """Before torch is imported: its thread pools read these variables then."""
    if threads:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


class _Version(argparse.Action):
    """Prints the installed version; reading it takes a moment, so only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from graphir import __version__

        print(f"circ {__version__}, language version 1")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        "circ",
        description="Find, check and export the circuits inside neural networks.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for add in (
        _add_run,
        _add_check,
        _add_fmt,
        _add_plan,
        _add_show,
        _add_query,
        _add_export,
        _add_diff,
        _add_report,
        _add_cache,
        _add_new,
        _add_env,
        _add_explain,
        _add_lsp,
    ):
        add(verbs)
    return parser


Verbs = argparse._SubParsersAction  # it has no public name


def _verb(
    verbs: Verbs[argparse.ArgumentParser], name: str, summary: str, example: str, *, json: bool = True
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if json:
        parser.add_argument("--json", action="store_true", help="answer as JSON on the standard output")
    else:
        parser.set_defaults(json=False)
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="color messages (auto: on a terminal)"
    )
    parser.add_argument("--traceback", action="store_true", help="show where in the program an error arose")
    return parser


def _add_spec_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME.FIELD=VALUE", help="change a value of the file (repeatable)"
    )
    parser.add_argument("--allow-code", action="store_true", help="let `model … = python` run its code")
    parser.add_argument("--allow-outside", action="store_true", help="let exports write outside of the output folder")


def _add_cache_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--cache", type=Path, metavar="DIR", help="folder of stages' results (default: runs/.cache)")
    which.add_argument("--no-cache", action="store_true", help="compute everything, keep nothing to go on from")


def _add_cache(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "cache", "show how large the cache of results is, make it smaller", "circ cache --limit 5GB")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder of stages' results (default: runs/.cache)")
    parser.add_argument(
        "--limit", metavar="SIZE", help="remove what was used longest ago until the rest fits (`10 GB`; 0: everything)"
    )


def _add_run(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "run", "carry out a specification", "circ run ioi.circ --out runs/ioi --set names.steps=200")
    parser.add_argument("file", metavar="FILE", help="a .circ file, or - for the standard input")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for results (default: runs/ and the file's name)"
    )
    parser.add_argument("--events", type=Path, metavar="FILE", help="write one JSON object for each event")
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress, no tables")
    parser.add_argument("--threads", type=_positive, metavar="N", help="CPU threads")
    parser.add_argument(
        "--log", action="append", default=[], metavar="TRACKER", help="tensorboard:DIR, mlflow or wandb (repeatable)"
    )
    _add_cache_arguments(parser)
    parser.add_argument(
        "--cache-limit", metavar="SIZE", help="size of the cache after the run (default: $CIRC_CACHE_LIMIT, else 20 GB)"
    )
    _add_spec_arguments(parser)


def _add_check(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "check", "report all mistakes of specifications", "circ check ioi.circ --fix")
    parser.add_argument("files", nargs="+", metavar="FILE", help=".circ files, or - for the standard input")
    parser.add_argument("--fix", action="store_true", help="write the suggested edits into the files")
    parser.add_argument(
        "--deep",
        action="store_true",
        help="look at the models' configurations, tokenizers and the data too, without loading weights",
    )
    parser.add_argument(
        "--format", choices=("text", "concise", "json", "sarif"), default="text", help="how findings are written"
    )
    parser.add_argument("--spec", action="store_true", help="with --json: add the specification with all defaults")
    parser.add_argument("--quiet", "-q", action="store_true", help="say nothing about files without mistakes")
    _add_spec_arguments(parser)


def _add_fmt(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "fmt", "lay specifications out in the canonical way", "circ fmt --diff ioi.circ")
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help=".circ files, or - to read the standard input and write the output"
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when a file would change")
    parser.add_argument("--diff", action="store_true", help="change nothing; show what would change")
    parser.add_argument(
        "--migrate", action="store_true", help="bring files of older versions of the language up to date"
    )


def _add_plan(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "plan", "say what a run would do and cost, without loading weights", "circ plan ioi.circ")
    parser.add_argument("file", metavar="FILE", help="a .circ file, or - for the standard input")
    parser.add_argument("--threads", type=_positive, metavar="N", help="CPU threads to plan for")
    _add_cache_arguments(parser)
    _add_spec_arguments(parser)


def _add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--names", choices=NAMES, default="ours", help="whose names for components")


def _add_show(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = _verb(
        verbs, "show", "show a saved circuit, a run, or the graph of a specification", "circ show runs/ioi --node a9.h6"
    )
    parser.add_argument("path", metavar="PATH", help="folder of a run or circuit, or a .circ file")
    parser.add_argument("--node", metavar="NAME", help="one node: source, weights, readers, writers, aliases")
    parser.add_argument(
        "--top", type=_positive, default=20, metavar="N", help="list the N strongest edges (default 20)"
    )
    _add_names(parser)


def _add_query(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = _verb(
        verbs,
        "query",
        "ask a saved circuit",
        'circ query runs/ioi "paths from embed to logits through a*.h*.v limit 5"',
    )
    parser.add_argument("path", metavar="PATH", help="folder of a run or circuit")
    parser.add_argument(
        "query", nargs="+", metavar="QUERY", help="a query as in a file, without `query NAME =` and `of NAME`"
    )


def _add_export(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = _verb(
        verbs, "export", "write a saved circuit in other formats", "circ export runs/ioi ioi.svg ioi.json --as mib"
    )
    parser.add_argument("path", metavar="PATH", help="folder of a run or circuit")
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="FILE",
        help="files to write; the suffix says the format, a final / a saved circuit",
    )
    parser.add_argument("--as", dest="flavor", metavar="FLAVOR", help="mib, node_link or edges")
    parser.add_argument("--top", type=_positive, metavar="N", help="only the N strongest edges")
    _add_names(parser)


def _add_diff(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "diff", "compare two saved circuits or runs", "circ diff runs/a runs/b")
    parser.add_argument("first", metavar="A", help="folder of a run or circuit")
    parser.add_argument("second", metavar="B", help="another")
    parser.add_argument(
        "--top", type=_positive, default=20, metavar="N", help="list at most N edges of each side (default 20)"
    )


def _add_report(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "report", "write a report of a run that has ended", "circ report runs/ioi --to ioi.html")
    parser.add_argument("path", metavar="PATH", help="folder of a run")
    parser.add_argument(
        "--to", action="append", default=[], metavar="FILE", help=".html, .md or .json (repeatable; left out: print it)"
    )
    parser.add_argument(
        "--circuit", action="append", default=[], metavar="NAME", help="about this circuit only (repeatable)"
    )


def _add_new(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "new", "write a commented specification to start from", "circ new ioi ioi.circ")
    parser.add_argument("template", nargs="?", metavar="TEMPLATE", help="ioi, induction, jsonl; left out: list them")
    parser.add_argument("file", nargs="?", metavar="FILE", help="where to write it (default: the standard output)")
    parser.add_argument("--force", action="store_true", help="overwrite the file")


def _add_env(verbs: Verbs[argparse.ArgumentParser]) -> None:
    _verb(verbs, "env", "show versions, tools and the machine, for bug reports", "circ env --json")


def _add_explain(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "explain", "explain a code or a part of the language", "circ explain C204")
    parser.add_argument(
        "topic", nargs="*", metavar="TOPIC", help="a code, section, method or list; left out: list them"
    )


def _add_lsp(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = _verb(
        verbs,
        "lsp",
        "serve an editor: the Language Server Protocol on standard input and output",
        "circ lsp",
        json=False,
    )
    parser.add_argument("--stdio", action="store_true", help="what it does anyway; some editors ask for it")


if __name__ == "__main__":
    sys.exit(main())
