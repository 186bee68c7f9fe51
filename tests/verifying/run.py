"""Runs the code of docs/VERIFYING.md, except Rust, against recorded answers: run.py VECTORS DIRECTORY

`tests/it/http/verifying.rs` records them from the service, and adds forged ones. The directory receives the extracted
files; Node packages are found in its `node_modules`. A language whose interpreter is missing is named and skipped.
"""
import json, pathlib, re, shutil, subprocess, sys

here = pathlib.Path(__file__).parent
document = (here / "../../docs/VERIFYING.md").read_text()
vectors, directory = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()

# The language of the block, its file, and the commands that run it with the driver of the same extension.
TSC = "node_modules/.bin/tsc --strict --target es2022 --module nodenext --types node verify.ts driver.ts"
NEWTONSOFT = "/usr/lib/cli/Newtonsoft.Json-5.0/Newtonsoft.Json.dll"
LANGUAGES = [
    ("typescript", "verify.ts", "node", [TSC, "node driver.js"]),
    ("javascript", "verify.js", "node", ["node driver.js"]),
    ("python", "verify.py", sys.executable, [f"{sys.executable} driver.py"]),
    ("csharp", "verify.cs", "mcs", [
        f"mcs -nologo -out:driver.exe -r:{NEWTONSOFT} verify.cs driver.cs", f"cp {NEWTONSOFT} .", "mono driver.exe",
    ]),
    ("lua", "verify.lua", "luajit", ["luajit driver.lua"]),
]


def run(language, file, commands, calls):
    """The names of the calls whose result differs from the expected one."""
    work = directory / language
    work.mkdir(parents=True, exist_ok=True)
    code, = re.findall(rf"^```{language}\n(.*?)^```$", document, re.M | re.S)
    for placeholder, value in [("YOUR_ROOT_KEY", vectors_["root"]), ("YOUR_PRODUCT_ID", vectors_["product"])]:
        assert code.count(placeholder) == 1, placeholder
        code = code.replace(placeholder, value)
    (work / file).write_text(code)
    driver = "driver" + pathlib.Path(file).suffix
    shutil.copy(here / driver, work)
    if not (work / "node_modules").exists():
        (work / "node_modules").symlink_to(directory / "node_modules")
    shutil.copy(vectors, work / "vectors.json")
    for command in commands:
        result = subprocess.run(command.split(), cwd=work, text=True, capture_output=True)
        if result.returncode != 0:
            sys.exit(f"{language}: {command}\n{result.stdout}{result.stderr}")
    found = result.stdout.splitlines()
    assert len(found) == len(calls), result.stdout
    return [f"{call['function']}, {call['name']}: {line or 'no answer'}" for call, line in zip(calls, found) if line != call["expect"]]


vectors_ = json.loads(vectors.read_text())
failed = False
for language, file, program, commands in LANGUAGES:
    if shutil.which(program) is None:
        print(f"{language}: not run, because {program} is not installed")
        continue
    wrong = run(language, file, commands, vectors_["calls"])
    failed = failed or bool(wrong)
    print(f"{language}: {len(vectors_['calls'])} answers, {len(wrong)} verified wrongly", *wrong, sep="\n  ")
sys.exit(failed)
