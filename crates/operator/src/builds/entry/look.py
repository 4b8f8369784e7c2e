# Whether a package's entry can be imported and called. Its last line says what is wrong; 90 is for sure, 91 is perhaps.
import importlib
import os
import sys

# What the package prints is no answer.
answer = os.dup(1)
os.dup2(2, 1)
module, _, function = sys.argv[1].partition(":")


def end(code, text=""):
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(answer, (" ".join(text.split())[:2000] + "\n").encode("utf-8", "replace"))
    os._exit(code)


try:
    found = importlib.import_module(module)
except ModuleNotFoundError as error:
    missing = error.name or str(error)
    if module == missing or module.startswith(missing + "."):
        end(90, f"names module {missing}, which is not in the package")
    end(90, f"cannot be imported: it needs module {missing}, which is not installed")
except (ImportError, SyntaxError) as error:
    end(90, f"cannot be imported: {type(error).__name__}: {error}")
except BaseException as error:
    end(91, f"its import raised {type(error).__name__}: {error}")
at = module
for part in function.split("."):
    try:
        found = getattr(found, part)
    except AttributeError:
        end(90, f"names {part}, which {at} has not")
    except BaseException as error:
        end(91, f"looking for {part} in {at} raised {type(error).__name__}: {error}")
    at = f"{at}.{part}"
if not callable(found):
    end(90, f"names {at}, which is a {type(found).__name__} and cannot be called")
end(0)
