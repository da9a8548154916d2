"""A runtime that needs numpy alone, as a user would write one, for tests of the process around it."""

RUNTIME = '''
import os, signal, sys, time
import numpy

class Plain:
    """Multiplies by the factor in the settings; what else they say it does."""

    def available(self):
        return None

    def open(self, artifact, target, settings, study):
        if settings.get("refuse"):
            from optlang.interfaces import Refusal
            raise Refusal("no such operator: Magic", help="use another")
        print("loading", artifact.folder, flush=True)
        os.write(1, b"from below python\\n")
        return Elsewhere(settings) if settings.get("elsewhere") else Session(settings)

class Session:
    def __init__(self, settings):
        self.settings = settings

    def prepare(self, batch):
        return batch["x"]

    def run(self, prepared):
        wish = self.settings.get("wish")
        if wish == "raise":
            raise ValueError("bad luck")
        if wish == "exit":
            sys.stderr.write("last words\\n")
            sys.stderr.flush()
            os._exit(3)
        if wish == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if wish == "reshape":
            last, self.settings["last"] = self.settings.get("last"), prepared.shape
            time.sleep(0 if last == prepared.shape else 0.02)
        if wish == "hang":
            time.sleep(600)
        if wish == "memory":
            raise MemoryError
        if wish == "read":
            assert sys.stdin.read() == ""
        print("running")
        if wish == "center":
            return prepared - prepared.mean(axis=0)
        if wish == "narrow" and len(prepared) > 36:
            return numpy.zeros_like(prepared)
        if wish == "single" and len(prepared) > 1:
            raise ValueError("one sample at a time")
        if wish == "spoilt" and (len(prepared) > 1 or self.settings.get("spoilt")):
            self.settings["spoilt"] = True
            raise ValueError("nothing works any more")
        if wish == "frail" and len(prepared) > 1:
            os._exit(9)
        if wish == "random":
            return prepared + numpy.random.default_rng().normal(size=prepared.shape)
        if wish == "spread":
            return prepared / prepared.std(axis=0, ddof=1)
        return prepared * self.settings.get("factor", 2)

    def collect(self, result):
        return {"file": result, "pid": numpy.full(len(result), os.getpid())}

    def close(self):
        print("closed")

class Elsewhere(Session):
    """It runs in another process, whose figures it has."""

    loaded = 0.25
    compiled = 1.5

    def durations(self, prepared, seconds, calls, skip):
        return [1000 + skip] * max(calls, int(seconds * 1e6))

    def memory(self):
        return self.settings["elsewhere"]
'''
