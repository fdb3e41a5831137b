"""`vstrain [verb] key=value …`: the first word chooses the verb, the rest are Hydra overrides. Imports no torch."""

from __future__ import annotations

import importlib
import sys

VERBS = {
    "train": "train an experiment (the default): vstrain experiment=depth_teacher",
    "predict": "results for your own files: vstrain predict ckpt=RUN_DIR input=PHOTO_OR_FOLDER",
    "label": "a teacher's labels for unlabelled shards: vstrain label ckpt=RUN_DIR urls='[DIR/*.tar]' output=DIR",
    "eval": "numbers of a trained model on held-out data: vstrain eval ckpt=RUN_DIR",
    "export": "the layout other libraries open: vstrain export ckpt=RUN_DIR",
    "replay": "one batch that did harm, once more: vstrain replay RUN_DIR/quarantine/FOLDER",
    "adopt": "a run made from weights of others: vstrain adopt experiment=depth_teacher weights=FILE system.size=vitl",
    "plan": "parameters, memory and FLOPs before queueing: vstrain plan experiment=depth_teacher scale=large",
    "rehearse": "faults on your own experiment, before you trust it: vstrain rehearse experiment=depth_teacher",
    "data": "make or look at shards: vstrain data depth_corpus source=FOLDER",
    "join": "one more host of a run with launcher=torchrun: vstrain join RUN_DIR",
    "parity": "the same steps under every strategy, compared: vstrain parity experiment=depth_teacher ranks='[1,2]'",
    "status": "how runs stand: vstrain status [RUN_DIR or FOLDER]",
    "stop": "save and end: vstrain stop RUN_DIR",
    "logs": "what a run says: vstrain logs [-f] RUN_DIR",
    "doctor": "what this machine has: vstrain doctor",
}

OK, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 75


def help_text() -> str:
    lines = [f"  {verb:<9}{text}" for verb, text in VERBS.items()]
    return "\n".join(
        [
            "vstrain [verb] key=value …",
            "",
            *lines,
            "",
            "  -m, --multirun      a sweep: vstrain -m experiment=depth_teacher optim.lr=1e-3,3e-4",
            "  --cfg job           print the composed configuration and stop; --info defaults-tree shows where it comes from",
            "  --config-dir DIR    your own experiments, sites, systems (also VSTRAIN_CONF=DIR)",
            '  -sc install=bash    tab completion: eval "$(vstrain -sc install=bash)"',
            "",
            "`vstrain VERB --help` lists what a verb takes. Exit codes: 0 ended as asked, 2 wrong configuration or input,",
            "75 stopped early (go on with vstrain train resume=RUN_DIR), 1 anything else.",
        ]
    )


def main(argv: list[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text())
        sys.exit(OK)
    if argv and argv[0] == "--version":
        from importlib.metadata import version

        print(version("vstrain"))
        sys.exit(OK)
    verb = "train"
    if argv and not argv[0].startswith("-") and "=" not in argv[0] and not argv[0].startswith("~"):
        verb = argv.pop(0)
    if verb not in VERBS:
        from vstrain.config.problems import nearest

        print(f"vstrain: no verb {verb!r}; {nearest(verb, VERBS)}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    from vstrain.config import userpath

    userpath.search()
    sys.exit(run(verb, argv))


def run(verb: str, argv: list[str]) -> int:
    from vstrain.config.problems import ConfigError, InputError

    try:
        return importlib.import_module(f"vstrain.verbs.{verb}").main(argv)
    except ConfigError as error:
        print(
            f"vstrain {verb}: the configuration has {len(error.problems)} problem{'s' * (len(error.problems) > 1)}:",
            file=sys.stderr,
        )
        for problem in error.problems:
            print(f"  {problem}", file=sys.stderr)
        return BAD_INPUT
    except InputError as error:
        print(f"vstrain {verb}: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("vstrain: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    main()
