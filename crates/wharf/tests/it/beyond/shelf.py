"""Fills a directory with packages called `harbour`, as PyPI, npm and Debian would serve them.

usage: shelf.py DIRECTORY BASE_URL
"""
import base64, hashlib, io, json, os, subprocess, sys, tarfile, tempfile, zipfile

directory, base = sys.argv[1:3]


def write(path, content):
    path = os.path.join(directory, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


wheel = io.BytesIO()
with zipfile.ZipFile(wheel, "w") as archive:
    files = {
        "harbour.py": "BERTHS = 7\n",
        "harbour-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: harbour\nVersion: 1.0\n",
        "harbour-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in files) + "harbour-1.0.dist-info/RECORD,,\n"
    for name, text in [*files.items(), ("harbour-1.0.dist-info/RECORD", record)]:
        archive.writestr(name, text)
name = "harbour-1.0-py3-none-any.whl"
write(f"wheels/{name}", wheel.getvalue())
write("simple/harbour/index.html", f'<a href="../../wheels/{name}">{name}</a>'.encode())

package = io.BytesIO()
with tarfile.open(fileobj=package, mode="w:gz") as archive:
    manifest = {"name": "harbour", "version": "1.0.0", "main": "index.js"}
    for path, text in [("package.json", json.dumps(manifest)), ("index.js", "module.exports = 7\n")]:
        info = tarfile.TarInfo(f"package/{path}")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text.encode()))
package = package.getvalue()
write("npm/-/harbour-1.0.0.tgz", package)
dist = {
    "shasum": hashlib.sha1(package).hexdigest(),
    "integrity": "sha512-" + base64.b64encode(hashlib.sha512(package).digest()).decode(),
}
# Below a path of its own, and where npm looks when it is told nothing.
for path, at in [("npm/harbour", base), ("harbour", "https://registry.npmjs.org")]:
    found = {**manifest, "dist": {**dist, "tarball": f"{at}/npm/-/harbour-1.0.0.tgz"}}
    write(path, json.dumps({"name": "harbour", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": found}}).encode())

with tempfile.TemporaryDirectory() as tree:
    os.makedirs(f"{tree}/p/DEBIAN")
    os.makedirs(f"{tree}/p/usr/share/harbour")
    control = "Package: harbour\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@b.test>\nDescription: berths\n"
    with open(f"{tree}/p/DEBIAN/control", "w") as file:
        file.write(control)
    with open(f"{tree}/p/usr/share/harbour/berths", "w") as file:
        file.write("7\n")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", f"{tree}/p", f"{tree}/h.deb"], check=True, stdout=subprocess.DEVNULL)
    with open(f"{tree}/h.deb", "rb") as file:
        package = file.read()
write("apt/harbour_1.0_all.deb", package)
write("apt/Packages", (
    f"{control}Filename: ./harbour_1.0_all.deb\nSize: {len(package)}\nSHA256: {hashlib.sha256(package).hexdigest()}\n"
).encode())

with tempfile.TemporaryDirectory() as tree:
    git = ["git", "-C", tree, "-c", "user.name=a", "-c", "user.email=a@b.test", "-c", "init.defaultBranch=main"]
    subprocess.run([*git, "init", "-q"], check=True)
    with open(f"{tree}/berths", "w") as file:
        file.write("7\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "berths"], check=True)
    for name in ["harbour", "private"]:
        bare = os.path.join(directory, f"git/{name}.git")
        subprocess.run(["git", "clone", "-q", "--bare", tree, bare], check=True)
        subprocess.run(["git", "-C", bare, "config", "http.receivepack", "true"], check=True)
