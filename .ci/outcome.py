"""What a run of pytest has in its JUnit file: `outcome.py skipped|slowest FILE`."""

import collections
import pathlib
import sys
import xml.etree.ElementTree


def node(case):
    """A test as pytest takes it on its command line; a module that was skipped as a whole, by its file."""
    parts = (case.get("classname") or case.get("name")).split(".")
    # Behind the file come the classes.
    files = [n for n in range(len(parts), 0, -1) if pathlib.Path(*parts[:n]).with_suffix(".py").is_file()]
    if not files:
        raise SystemExit(f"no file of {case.attrib}")
    names = [*parts[files[0] :], *([case.get("name")] if case.get("classname") else [])]
    return "::".join([str(pathlib.Path(*parts[: files[0]]).with_suffix(".py")), *names])


cases = list(xml.etree.ElementTree.parse(sys.argv[2]).iter("testcase"))
if sys.argv[1] == "skipped":
    print(*(node(case) for case in cases if case.find("skipped") is not None), sep="\n")
else:
    seconds = collections.Counter()
    for case in cases:
        seconds[node(case).split("::")[0]] += float(case.get("time"))
    for name, spent in seconds.most_common(15):
        print(f"{spent:7.1f} s  {name}")
