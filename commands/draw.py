"""Draw digits on a page of this computer, and see what the CNN last trained makes of them.

The network is that of the experiment mnist_cnn. Nobody but this computer can reach the page.
"""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

import config
from utils.errors import UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=8765, help="default 8765; 0: any free one")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--results", metavar="DIR", default=config.RESULTS_DIR)


def run(parsed: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    from commands.drawing.network import Network
    from commands.drawing.server import Server
    from section3.experiments.mnist_cnn import load_trained
    from utils.experiments import results

    place = Path(parsed.results)
    folder, training = place / "section3" / "mnist_cnn", results.command("mnist_cnn", place)
    if not (folder / "result.json").exists():
        raise UserError(f"{folder} has no trained CNN yet: {training} trains one")
    result = results.load(folder)
    try:
        network = Network(load_trained(folder, result), result)
        about = network.about()
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{folder} is no result of mnist_cnn as it is now ({type(error).__name__}: {error}): "
            f"{training} trains it anew"
        ) from error
    with Server(parsed.port, about, network.answer) as server:
        address = f"http://127.0.0.1:{server.port}/"
        print(f"{about}\nDraw a digit: {address} (Ctrl-C to end)", flush=True)
        if parsed.open:
            webbrowser.open(address)
        server.serve_forever()
    return 0
