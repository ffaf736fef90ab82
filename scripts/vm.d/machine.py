# SPDX-License-Identifier: MIT OR Apache-2.0
"""Makes images and snapshots, starts QEMU, sends commands in and brings output and exit codes back.

  vm image SUITE                          make image and snapshot when missing; print where they are
  vm run   SUITE [options] -- COMMAND…    run it in a new machine, restored from the snapshot, thrown away after
  vm up    SUITE [-w DIR] [-n NAME] [-k OPTIONS]   keep a machine for a series (four hours at most) …
  vm exec  NAME [-u USER] [-t SECONDS] -- COMMAND… … that runs these, one at a time …
  vm down  NAME                           … and ends here

SUITE is a Debian suite: trixie (kernel 6.12, systemd 257) or bookworm (6.1, 252); podman is trixie with Podman
besides. NAME is SUITE unless given.

  -u, --user USER            root (default), or dev: an ordinary user, in a scope of its systemd user manager
  -w, --work DIR             show this directory of the host as /host (9p: slow for many small files)
  -t, --timeout SECONDS      kill the command after this time, exit code 124 (default 600)
  -k, --kernel-options TEXT  boot anew (15 s or so) with these at the end of the kernel's command line
  -n, --name NAME            of a kept machine

The exit code is the command's; 125 when the machine failed. CORACLE_VM_CACHE (target/vm) holds images and
snapshots, CORACLE_VM_MEMORY (2048) is a machine's memory in MiB.
"""
import argparse, contextlib, fcntl, hashlib, json, os, select, shlex, shutil, signal, socket, subprocess, sys
import tempfile, time

HERE = os.path.dirname(os.path.realpath(__file__))
CACHE = os.path.abspath(os.environ.get('CORACLE_VM_CACHE', os.path.join(HERE, '../../target/vm')))
KEPT = os.path.join(tempfile.gettempdir(), f'coracle-vm-{os.getuid()}')
MEMORY = os.environ.get('CORACLE_VM_MEMORY', '2048')
PORTS = ('ctl', 'out', 'err')
# Suites that are a Debian suite and some packages more.
MORE = {'podman': ('trixie', ['podman'])}
BOOT = 300  # seconds that a boot may take, on a machine that is busy with other things


class Failure(Exception):
    """One line about what went wrong with the machine, not with the command in it."""


def qemu(image, disk, place, work, kernel_options):
    """The command line. Whatever is in it except for paths is a part of the snapshot's key."""
    line = ['qemu-system-x86_64', '-accel', 'tcg,thread=single', '-cpu', 'max', '-machine', 'q35', '-smp', '2',
            '-m', MEMORY, '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot',
            '-kernel', f'{image}/kernel', '-initrd', f'{image}/initrd', '-append',
            'root=/dev/vda rw console=ttyS0 quiet panic=-1 mitigations=off init_on_alloc=0 net.ifnames=0 '
            'systemd.show_status=0 ' + kernel_options,
            '-serial', f'file:{place}/console', '-qmp', f'unix:{place}/qmp,server=on,wait=off',
            '-object', 'rng-random,id=rng,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng',
            '-drive', disk, '-device', 'virtio-blk-pci,drive=disk', '-device', 'virtio-serial-pci',
            '-fsdev', f'local,id=host,path={work or place},security_model=none,multidevs=remap',
            '-device', 'virtio-9p-pci,fsdev=host,mount_tag=host']
    for port in PORTS:
        line += ['-chardev', f'socket,id={port},path={place}/{port},server=on,wait=off',
                 '-device', f'virtserialport,chardev={port},name={port}']
    return line


class Machine:
    """One QEMU: its process when it is ours, and the sockets in `place`."""

    def __init__(self, place):
        self.place, self.process, self.sockets, self.qmp_file = place, None, {}, None
        self.unread = dict.fromkeys(PORTS, b'')

    def start(self, image, snapshot=None, writable=None, work=None, kernel_options='', kept=False):
        if writable:
            disk = f'file={writable},snapshot=off'
        else:
            disk = f'file={snapshot + ".ext4" if snapshot else image + "/root.ext4"},snapshot=on'
        line = qemu(image, f'{disk},if=none,id=disk,format=raw,cache=unsafe', self.place, work, kernel_options)
        if snapshot:
            line += ['-incoming', f'exec:cat {shlex.quote(snapshot + ".state")}']
        if kept:
            line = ['timeout', '--kill-after=10', '4h'] + line
        else:
            line = ['setpriv', '--pdeathsig', 'KILL'] + line
        with open(f'{self.place}/qemu', 'wb') as log:
            self.process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=dict(os.environ, TMPDIR=self.place), start_new_session=True)
        self.connect()
        if snapshot:
            self.migrated()
            self.qmp('cont')
        else:
            self.ready()

    def connect(self, names=('qmp',) + PORTS, seconds=30):
        end = time.monotonic() + seconds
        for name in names:
            self.sockets[name] = socket.socket(socket.AF_UNIX)
            while self.sockets[name].connect_ex(f'{self.place}/{name}') != 0:
                self.alive()
                if time.monotonic() > end:
                    raise Failure(f'QEMU does not answer: {self.last_words()}')
                time.sleep(0.01)
        self.sockets['qmp'].settimeout(60)
        self.qmp_file = self.sockets['qmp'].makefile('rw')
        self.qmp_file.readline()
        self.qmp('qmp_capabilities')

    def alive(self):
        if self.process and self.process.poll() is not None:
            raise Failure(f'QEMU has ended: {self.last_words()}')

    def last_words(self):
        text = ''
        for file in ('qemu', 'console'):
            with contextlib.suppress(OSError), open(f'{self.place}/{file}', errors='replace') as f:
                text += f.read()[-2000:]
        return text

    def qmp(self, command, **arguments):
        self.qmp_file.write(json.dumps({'execute': command, 'arguments': arguments}) + '\n')
        self.qmp_file.flush()
        for line in self.qmp_file:
            answer = json.loads(line)
            if 'error' in answer:
                raise Failure(f'QEMU refuses {command}: {answer["error"]["desc"]}')
            if 'return' in answer:
                return answer['return']
        raise Failure(f'QEMU has ended: {self.last_words()}')

    def migrated(self):
        end = time.monotonic() + 120
        while (status := self.qmp('query-migrate').get('status')) != 'completed':
            self.alive()
            if status == 'failed' or time.monotonic() > end:
                raise Failure(f'the machine\'s state cannot be saved or restored: {self.last_words()}')
            time.sleep(0.01)

    def pump(self, end):
        """Waits for more from the guest."""
        self.alive()
        if time.monotonic() > end:
            raise Failure(f'the machine does not answer: {self.last_words()}')
        ready, _, _ = select.select([self.sockets[p] for p in PORTS], [], [], 1)
        for port in PORTS:
            if self.sockets[port] in ready:
                data = self.sockets[port].recv(1 << 16)
                if not data:
                    raise Failure(f'QEMU has ended: {self.last_words()}')
                self.unread[port] += data

    def ready(self):
        end = time.monotonic() + BOOT
        while b'READY\n' not in self.unread['ctl']:
            self.pump(end)

    def run(self, command, user='root', seconds=600, share=False, into=(None, None)):
        """Runs the command; its output goes to the two files of `into` as it comes. Returns the exit code."""
        nonce = os.urandom(8).hex()
        script = (('cd /host\n' if share else '') + shlex.join(command) + '\n').encode()
        header = f'RUN {nonce} {user} {time.time():.3f} {seconds} {int(share)} {len(script)}\n'
        self.sockets['ctl'].sendall(header.encode() + script)
        begin, close = f'\0BEGIN {nonce}\n'.encode(), f'\0END {nonce}\n'.encode()
        streams = {port: (file, 'before') for port, file in zip(PORTS[1:], into)}
        end = time.monotonic() + seconds + 120
        while True:
            for port, (file, state) in streams.items():
                if state == 'before' and begin in self.unread[port]:
                    self.unread[port] = self.unread[port].split(begin, 1)[1]
                    state = 'inside'
                if state == 'inside':
                    text, mark, rest = self.unread[port].partition(close)
                    if mark:
                        state = 'after'
                    elif (zero := text.rfind(b'\0', -len(close))) >= 0:
                        text, rest = text[:zero], text[zero:]  # This may be the beginning of the mark.
                    self.unread[port] = rest
                    if file and text:
                        file.write(text)
                        file.flush()
                streams[port] = (file, state)
            done = all(state == 'after' for _, state in streams.values())
            exits = [l.split() for l in self.unread['ctl'].decode(errors='replace').split('\n')[:-1]]
            codes = [int(words[2]) for words in exits if words[:2] == ['EXIT', nonce]]
            if done and codes:
                return codes[0]
            self.pump(end)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for s in self.sockets.values():
            s.close()


@contextlib.contextmanager
def temporary_machine():
    place = tempfile.mkdtemp(prefix='coracle-vm-')
    machine = Machine(place)
    try:
        yield machine
    finally:
        machine.stop()
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def locked(path):
    with open(path, 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def key(*parts):
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:12]


def say(text):
    print(f'vm: {text}', file=sys.stderr, flush=True)


def image(suite):
    """The directory with kernel, initrd and disk; made when there is none of this recipe."""
    recipe = []
    for file in ['make-image'] + sorted('guest/' + name for name in os.listdir(f'{HERE}/guest')):
        with open(f'{HERE}/{file}') as f:
            recipe += [file, f.read()]
    debian, more = MORE.get(suite, (suite, []))
    path = f'{CACHE}/{suite}-{key(*recipe, *more)}'
    os.makedirs(CACHE, exist_ok=True)
    with locked(f'{CACHE}/{suite}.lock'):
        if not os.path.isdir(path):
            begin = time.monotonic()
            for old in os.listdir(CACHE):
                if old.startswith(f'{suite}-'):
                    shutil.rmtree(f'{CACHE}/{old}')
            os.mkdir(f'{path}.partial')
            say(f'making the image of {suite}')
            maker = subprocess.Popen(['timeout', '--kill-after=30', '1200', f'{HERE}/make-image', debian,
                                      f'{path}.partial', *more], stdin=subprocess.DEVNULL, stdout=sys.stderr)
            try:
                code = maker.wait()
            except BaseException:
                maker.terminate()
                maker.wait()
                raise
            if code != 0:
                raise Failure(f'no image of {suite} can be made')
            os.rename(f'{path}.partial', path)
            say(f'image of {suite}: {time.monotonic() - begin:.0f} s')
        return path, snapshot(path)


def snapshot(image_path):
    """The prefix of the files with a booted machine's memory and disk; made when there is none."""
    version = subprocess.run(['qemu-system-x86_64', '--version'], capture_output=True, text=True, check=True).stdout
    path = f'{image_path}/booted-{key(version, *qemu("", "", "", None, ""))}'
    if os.path.exists(f'{path}.state'):
        return path
    begin = time.monotonic()
    subprocess.run(['cp', '--sparse=always', '--reflink=auto', f'{image_path}/root.ext4', f'{path}.ext4'], check=True)
    with temporary_machine() as machine:
        machine.start(image_path, writable=f'{path}.ext4')
        machine.run(['sync'], seconds=60)
        machine.qmp('stop')
        machine.qmp('migrate-set-parameters', **{'max-bandwidth': 1 << 40})
        machine.qmp('migrate', uri=f'exec:cat > {shlex.quote(path)}.partial')
        machine.migrated()
    os.rename(f'{path}.partial', f'{path}.state')
    say(f'snapshot: {time.monotonic() - begin:.0f} s')
    return path


def started(machine, a, kept):
    path, booted = image(a.suite)
    machine.start(path, snapshot=None if a.kernel_options else booted, kernel_options=a.kernel_options,
                  work=a.work and os.path.abspath(a.work), kept=kept)


def result(machine, a, share):
    return machine.run(a.command, a.user, a.timeout, share, (sys.stdout.buffer, sys.stderr.buffer))


def run(a):
    with temporary_machine() as machine:
        started(machine, a, kept=False)
        return result(machine, a, bool(a.work))


def kept_place(name):
    place = f'{KEPT}/{name}'
    if not os.path.isdir(place):
        raise Failure(f'no machine {name} is up')
    return place


def up(a):
    place = f'{KEPT}/{a.name or a.suite}'
    os.makedirs(KEPT, mode=0o700, exist_ok=True)
    try:
        os.mkdir(place)
    except FileExistsError:
        raise Failure(f'a machine {a.name or a.suite} is up already (or ended by itself: vm down {a.name or a.suite})')
    machine = Machine(place)
    try:
        started(machine, a, kept=True)
        if a.work:
            with open(f'{place}/share', 'w'):
                pass
    except BaseException:
        machine.stop()
        shutil.rmtree(place)
        raise
    return 0


def exec_(a):
    place = kept_place(a.name)
    with locked(f'{place}/lock'):
        machine = Machine(place)
        machine.connect()
        return result(machine, a, os.path.exists(f'{place}/share'))


def down(a):
    place = kept_place(a.name)
    machine = Machine(place)
    with contextlib.suppress(OSError, Failure):  # It may have ended by itself.
        machine.connect(('qmp',), seconds=1)
        machine.qmp('quit')
        machine.qmp_file.read()  # until it has ended
    shutil.rmtree(place, ignore_errors=True)
    return 0


def arguments():
    argv, command = sys.argv[1:], []
    if '--' in argv:
        command, argv = argv[argv.index('--') + 1:], argv[:argv.index('--')]
    if not argv or argv[0] in ('-h', '--help', 'help'):
        print(__doc__.strip())
        sys.exit(0)
    parser = argparse.ArgumentParser(prog='vm', usage='vm image|run|up|exec|down … (vm --help)')
    verbs = parser.add_subparsers(required=True)
    for function, first in ((image, 'suite'), (run, 'suite'), (up, 'suite'), (exec_, 'name'), (down, 'name')):
        verb = verbs.add_parser(function.__name__.strip('_'))
        verb.set_defaults(function=function)
        verb.add_argument(first)
        if function in (run, up):
            verb.add_argument('-w', '--work')
            verb.add_argument('-k', '--kernel-options', default='')
        if function in (run, exec_):
            verb.add_argument('-u', '--user', default='root')
            verb.add_argument('-t', '--timeout', type=int, default=600)
        if function is up:
            verb.add_argument('-n', '--name')
    a = parser.parse_args(argv)
    if a.function in (run, exec_) and not command:
        parser.error('a command is needed, after --')
    a.command = command
    return a


def main():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    a = arguments()
    try:
        if a.function is image:
            print(image(a.suite)[0])
            return 0
        return a.function(a)
    except (Failure, OSError) as e:
        say(e)
        return 125


sys.exit(main())
