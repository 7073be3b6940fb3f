"""What programs that mean no harm do, one per part of the standard library: all of it works in both kinds of sandbox.

The list of system calls (seccomp.py) was found with these under strace.
"""

import pytest

HONEST = {
    "the shape of a benchmark": "from typing import List\nimport math, re, collections\nassert math.gcd(12, 18) == 6",
    "files": """
import glob, os, pathlib, shutil, tempfile
open('a', 'w').write('x' * 10)
shutil.copyfile('a', 'b'); shutil.copy('a', 'b2'); shutil.copy2('a', 'b3')
os.rename('b', 'c'); os.makedirs('d/e/f'); os.symlink('a', 'l'); os.link('a', 'h'); os.truncate('a', 3)
assert open('l').read() == 'xxx'
with tempfile.TemporaryDirectory() as folder: open(folder + '/f', 'w').write('1')
for kind in (tempfile.TemporaryFile, tempfile.NamedTemporaryFile):
    with kind() as file: file.write(b'1'); file.seek(0); assert file.read() == b'1'
shutil.copytree('d', 't'); shutil.move('t', 'u'); shutil.rmtree('d')
os.umask(0o077); os.mkdir('p', 0o700); os.access('a', os.R_OK); os.getcwd(); os.statvfs('.'); list(os.walk('.'))
with open('a', 'r+') as file: file.truncate(1); os.fsync(file.fileno())
assert sorted(glob.glob('*')) == ['a', 'b2', 'b3', 'c', 'h', 'l', 'p', 'u']
pathlib.Path('z').write_text('a'); os.remove('a'); os.chdir('u')
""",
    "threads": """
import concurrent.futures, queue, threading, time
line = queue.Queue()
threads = [threading.Thread(target=line.put, args=(i,)) for i in range(8)]
[one.start() for one in threads]; [one.join() for one in threads]
assert line.qsize() == 8
with concurrent.futures.ThreadPoolExecutor(4) as pool: assert list(pool.map(abs, [-1, 2])) == [1, 2]
threading.Event().wait(0.01); lock = threading.Lock(); lock.acquire(); assert not lock.acquire(timeout=0.01)
""",
    "forks": """
import multiprocessing, os
read, write = os.pipe()
child = os.fork()
if child == 0: os.write(write, b'hi'); os._exit(3)
assert os.read(read, 2) == b'hi' and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
context = multiprocessing.get_context('fork')
ours, theirs = context.Pipe()
process = context.Process(target=theirs.send, args=([1, 2],))
process.start(); assert ours.recv() == [1, 2]; process.join()
""",
    "databases": """
import sqlite3
for name in (':memory:', 'f.db'):
    base = sqlite3.connect(name); base.execute('create table t(a)')
    base.executemany('insert into t values(?)', [(i,) for i in range(99)]); base.commit()
    assert base.execute('select sum(a) from t').fetchone() == (4851,)
""",
    "a limit on time": """
import signal, time
class Late(Exception): pass
def late(*what): raise Late
signal.signal(signal.SIGALRM, late); signal.setitimer(signal.ITIMER_REAL, 0.05)
try: time.sleep(9); assert False
except Late: signal.alarm(0)
""",
    "archives": """
import bz2, gzip, lzma, tarfile, zipfile, zlib
open('a', 'w').write('x' * 100)
with zipfile.ZipFile('z.zip', 'w') as archive: archive.write('a')
with tarfile.open('t.tgz', 'w:gz') as archive: archive.add('a')
zipfile.ZipFile('z.zip').extractall('o'); tarfile.open('t.tgz').extractall('p')
assert open('p/a').read() == open('o/a').read()
assert {one.decompress(one.compress(b'q')) for one in (lzma, bz2, gzip, zlib)} == {b'q'}
""",
    "numbers, texts and times": """
import array, calendar, csv, datetime, decimal, difflib, fractions, hashlib, heapq, hmac, io, itertools, json, locale
import os, pickle, platform, random, resource, secrets, statistics, string, time, timeit, unicodedata, uuid, zoneinfo
import xml.etree.ElementTree
uuid.uuid4(); uuid.uuid1(); zoneinfo.ZoneInfo('Europe/Paris'); secrets.token_hex(); platform.platform()
random.SystemRandom().random(); decimal.Decimal(1) / 3; os.cpu_count(); os.times(); resource.getrusage(0)
xml.etree.ElementTree.fromstring('<a/>'); pickle.loads(pickle.dumps([1])); hashlib.sha256(b'').hexdigest()
datetime.datetime.now().astimezone(); locale.setlocale(locale.LC_ALL, 'C'); 'あ'.encode('shift_jis')
time.localtime(); time.process_time(); timeit.timeit(number=10); 'ä'.encode('utf-16')
""",
    "logs, tests and arguments": """
import argparse, configparser, contextlib, getpass, inspect, logging, traceback, unittest, warnings
logging.basicConfig(); logging.warning('x'); inspect.getsource(argparse)
class T(unittest.TestCase):
    def test(self): self.assertEqual(1, 1)
assert unittest.main(argv=['x'], exit=False).result.wasSuccessful()
""",
    "memory and lines between threads": """
import mmap, select, selectors, socket
page = mmap.mmap(-1, 4096); page[:2] = b'ab'
open('f', 'wb').write(b'0' * 4096)
with open('f', 'r+b') as file: page = mmap.mmap(file.fileno(), 0); page[:1] = b'1'; page.flush(); page.close()
a, b = socket.socketpair(); a.sendall(b'x'); assert b.recv(1) == b'x'
waiting = selectors.DefaultSelector(); waiting.register(b, 1); a.send(b'y'); assert waiting.select(1)
select.select([b], [], [], 0); a.settimeout(0.1); a.setblocking(False); a.shutdown(1)
big = sorted(range(10**6), reverse=True)
""",
    "input and output": """
import shutil, sys
assert sys.stdin.read() == '' and not sys.stdout.isatty() and not sys.stdout.seekable()
print('a', file=sys.stderr); sys.stdout.write('b'); sys.stdout.flush(); shutil.get_terminal_size()
""",
}


@pytest.mark.parametrize("program", HONEST.values(), ids=HONEST)
def test_what_honest_programs_do_works(run, program: str) -> None:
    outcome = run(program)
    assert outcome.status == "passed", (outcome.error, outcome.stderr)
