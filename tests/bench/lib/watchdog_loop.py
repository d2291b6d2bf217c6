"""The peer "Python with watchdog": runs what is in a directory and what comes to it. Run by the Python that has the package watchdog."""

import os
import subprocess
import sys
import threading

from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer


def run(path):
    if os.path.basename(path).startswith(".") or not os.access(path, os.X_OK):
        return
    subprocess.run([path], check=False)
    os.unlink(path)


class Handler(FileSystemEventHandler):
    """A rename within the watched directory is a move, one from elsewhere a creation."""

    def on_moved(self, event):
        run(event.dest_path)

    def on_created(self, event):
        run(event.src_path)


directory = sys.argv[1]
observer = Observer()
observer.schedule(Handler(), directory)
for name in sorted(os.listdir(directory)):
    run(os.path.join(directory, name))
observer.start()
threading.Event().wait()
