"""Runs the window of X-AnyLabeling without a screen, with the Python of its environment; see x_anylabeling.py.

It opens an image, chooses the remote server, sets marks and saves, as a user does. The last line on stdout is a JSON
object: size of the shown image, shapes before and after, shapes on disk, messages, and whether shapes are preserved.
"""

import argparse
import json
import os
import time
from pathlib import Path

LOAD_S = 60.0


def main() -> None:
    """Open the image, set the marks, and print what became of the shapes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--marks", type=json.loads, required=True)
    parser.add_argument("--lost-server", help="address for the prediction, after the models were listed")
    parser.add_argument("--overwrite", action="store_true", help="switch the button that preserves shapes off")
    arguments = parser.parse_args()
    os.environ |= {"QT_QPA_PLATFORM": "offscreen", "HOME": str(arguments.image.parent)}

    # Qt reads the environment when it is loaded.
    from anylabeling import config
    from anylabeling.resources import resources  # noqa: F401 - the icons
    from PyQt6.QtWidgets import QApplication

    application = QApplication([])
    settings = arguments.image.parent / ".xanylabelingrc"
    settings.write_text(json.dumps({"remote_server_settings": {"server_url": arguments.server}}))  # JSON is YAML
    config.current_config_file = str(settings)

    from anylabeling.views.mainwindow import MainWindow

    window = MainWindow(application, config=config.get_config() | {"auto_save": True})
    widget = window.labeling_widget.view
    widget.load_file(str(arguments.image))
    panel = widget.auto_labeling_widget
    manager = panel.model_manager
    messages: list[str] = []
    manager.new_model_status.connect(lambda text, *_: messages.append(text))

    (remote,) = [one["config_file"] for one in manager.model_configs if "remote_server" in one["config_file"]]
    manager.load_model(remote)
    until = time.monotonic() + LOAD_S
    while manager.get_remote_server_current_model_id() is None and time.monotonic() < until:
        application.processEvents()
    if arguments.overwrite:
        panel.toggle_preserve_existing_annotations.setChecked(False)
    model = manager.loaded_model_config["model"]
    if arguments.lost_server:
        model.predict_url = f"{arguments.lost_server}/v1/predict"

    before = drawn(widget)
    manager.set_auto_labeling_marks(arguments.marks)
    manager.predict_shapes(widget.image, widget.filename)
    application.processEvents()
    widget.save_file()
    found = {
        "model": manager.get_remote_server_current_model_id(),
        "preserves": panel.toggle_preserve_existing_annotations.isChecked(),
        "size": [widget.image.width(), widget.image.height()],
        "before": before,
        "after": drawn(widget),
        "saved": json.loads(arguments.image.with_suffix(".json").read_text())["shapes"],
        "messages": messages,
    }
    print(json.dumps(found), flush=True)
    os._exit(0)  # the window's destruction without an event loop may fail


def drawn(widget: object) -> list[dict[str, object]]:
    """Return the shapes on the canvas, each with its label and its points."""
    return [
        {"label": shape.label, "points": [[point.x(), point.y()] for point in shape.points]}
        for shape in widget.canvas.shapes  # type: ignore[attr-defined]
    ]


if __name__ == "__main__":
    main()
