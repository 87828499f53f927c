"""The command line's one text: help for people, and the grammar that docopt parses by."""

USAGE = """\
p2pfs-cli: store files in a p2pfs cluster by their content, and get them back verified.

Usage:
  p2pfs-cli [options] store [--encrypt | --passphrase | --convergent | --plain] [--name=NAME]
                            [--replicas=N] [--chunker=C] [--hash=H] [--dry-run] [--] PATH...
  p2pfs-cli [options] get [--output=PATH] [--force] [--] REF
  p2pfs-cli [options] cat [--offset=SIZE] [--length=SIZE] [--] REF
  p2pfs-cli [options] ls [--] [REF]
  p2pfs-cli [options] stat [--] REF
  p2pfs-cli [options] explain [--] REF
  p2pfs-cli [options] rm [--] REF
  p2pfs-cli [options] restore [--] REF
  p2pfs-cli [options] id [--chunker=C] [--hash=H] [--] PATH...
  p2pfs-cli [options] import [--name=NAME] [--replicas=N] [--] FILE
  p2pfs-cli [options] export --output=PATH [--force] [--] REF
  p2pfs-cli [options] peers
  p2pfs-cli [options] status
  p2pfs-cli [options] audit [--wait]
  p2pfs-cli [options] scrub [--wait]
  p2pfs-cli [options] gc [--dry-run]
  p2pfs-cli [options] drain [--wait | --cancel]
  p2pfs-cli [options] forget [--revoke] [--] NODE
  p2pfs-cli [options] grant --role=ROLE [--expires=TIME] --output=DIR [--] NAME
  p2pfs-cli [options] invite [--expires=TIME] [--once]
  p2pfs-cli (-h | --help)
  p2pfs-cli --version

Verbs for content:
  store     keep files or directories, `-` for standard input; prints `CID  PATH`, and with --encrypt
            `LINK  PATH`: a REF that has the key in it, so keep it to yourself
  get       fetch a whole file or directory, verified; it appears complete or not at all
  cat       write a file, or a range of it, to standard output
  ls        what is pinned, or the entries of a directory; prints `CID  SIZE  NAME`
  stat      size, kind, number of blocks and pins of a REF
  explain   where each block of a REF should be and is, and what would fix what is missing
  rm        remove the pin of a REF; its blocks are collected a day later, or as gc_grace says
  restore   undo rm, as long as the blocks are there
  id        the CID of a file or directory, without storing it and without a node
  import    take in a CAR file (`-` for standard input) and pin its roots
  export    write a REF as a CAR file

Verbs for the cluster; what they begin is the node's work, it goes on when you do not wait:
  peers     every member of the cluster
  status    is anything lost, at risk or short of copies, how much, until when; what the node is
            doing about it; exit code 0 only when healthy
  audit     compare what is pinned with this node's disk now: fetch what is missing, hand on what
            belongs to others; nodes do so by themselves after each change and once an hour
  scrub     re-read and verify every block of this node now; a bad one is fetched again
  gc        drop what no pin wants any more from this node now, instead of within the hour
  drain     give all that is on this node to the others; with --wait, stop the node after exit 0
  forget    strike a dead member that will not come back, by its name or id; with --revoke, refuse a
            stolen member, or a client by the id that grant printed, alive or not, from now on
  grant     make a folder for --tls-dir, with which NAME may use the cluster from a machine without
            a node; prints the id with which to take that back
  invite    print a token that lets a new machine join: p2pfs-node join TOKEN there does the rest;
            who has it meanwhile can join as well

Options of all verbs:
  --node=ADDR        the node: path of a control socket, or HOST:PORT with --tls-dir; without it
                     $P2PFS_NODE, else control.sock in the default data directory
  --tls-dir=DIR      folder with the client's cert.pem, key.pem and ca.pem, for HOST:PORT
  --json             one JSON object per line on standard output; an error is one, too, after its
                     text on standard error
  -q --quiet         no progress and no remarks; results and errors only
  --timeout=TIME     deadline of the whole command, 30s or 10m; without it a command may take
                     as long as it advances, and ends after 60 s of silence
  --key-file=FILE    32 secret bytes (or 64 hex digits) in a file that is yours alone, made by
                     (umask 077; openssl rand -hex 32 > FILE): for links that say #f=
  --passphrase-file=FILE  a file with the passphrase for links that say #p=, and to store so;
                     without it $P2PFS_PASSPHRASE, else it is asked for on the terminal
  -h --help          this text
  --version          the version

Options of some verbs:
  --name=NAME        the pin's name; without it the file's own. With several PATHs: not allowed
  --replicas=N       copies to keep, instead of the cluster's setting
  --chunker=C        fixed-1MiB, fixed-256KiB, fastcdc-1MiB or fastcdc-256KiB: how a file is cut into blocks
  --hash=H           sha2-256 or blake3: what blocks are named by
  --encrypt          encrypt before anything reaches a node; the key is in the link, or outside
                     of it with --key-file. Names and structure are encrypted, too; nodes see
                     sizes and the number of files, and the pin has no name without --name
  --passphrase       encrypt, with a key from a passphrase, outside of the link
  --convergent       encrypt, each file with a key from its content and the --key-file: equal files
                     are stored once, so nodes see which are equal, and whoever has the key file
                     can find out whether you store a file that he knows
  --plain            do not encrypt, whatever client.ini says
  --dry-run          say what would be stored, or collected, and change nothing
  --wait             wait for the end, show progress, tell what was done; Ctrl-C ends the waiting only
  --cancel           stop draining, and take the shards back
  --once             the token lets one machine in, and no second one
  -o PATH --output=PATH  where to put it; `-` is standard output, an existing folder: into it
  --force            overwrite an existing file
  --revoke           no node serves it any more; who knows the secret can come back with another
                     identity, so replace the secret, too
  --role=ROLE        read: see what is stored, and how the cluster is; store: add to it, too;
                     admin: everything, removing among it
  --expires=TIME     how long it is good, 10m or 90d; without it 365d (grant), 1h (invite)
  --offset=SIZE      first byte, 1048576 or 1MiB; without it 0
  --length=SIZE      how many bytes; without it to the end

REF, the name of something stored:
  bafy...                   a CID                  bafy.../docs/a.txt   a path inside it
  photos                    a pin's name           photos/2024/a.jpg    a path inside it
  sha256:9f86d081...        the SHA-256 of a stored file, as sha256sum prints it
  ipfs://bafy...            as other IPFS tools write it
  p2pfs:bafy...#k=...       the link of something encrypted; p2pfs:bafy.../docs/a.txt#k=... inside
  -                         read from standard input: arguments can be seen by other users

~/.config/p2pfs/client.ini (or in $XDG_CONFIG_HOME) may say for all stores of yours:
  [store]
  encrypt = always          or never, which is the default
  key = link                or key-file, passphrase, convergent
  key_file = ~/.config/p2pfs/key

Exit codes:
  0  done                            6  no space
  1  a check found something wrong   7  cannot reach the node
  2  usage                           8  too few nodes for the wanted durability
  3  not found                       9  refused: an identity, a limit, an existing file
  4  deadline passed               130  interrupted
  5  data corrupt

Examples:
  p2pfs-cli store --name=photos ~/photos          keep a directory
  tar c src | p2pfs-cli store --name=src.tar -    keep what a program writes
  p2pfs-cli get photos -o /tmp/                   get it back as /tmp/photos
  p2pfs-cli store --encrypt ~/diary               keep what no node can read; prints its link
  p2pfs-cli cat backup.img --offset=1GiB --length=4KiB | xxd
  p2pfs-cli --json ls | jq -r .cid                for scripts
  p2pfs-cli invite --once | ssh host p2pfs-node join -     a new node on another machine
  p2pfs-cli drain --wait && systemctl stop p2pfs-node      take a node away
  p2pfs-cli grant --role=store -o alice alice     let alice store from her own machine
  P2PFS_NODE=nas:4801 p2pfs-cli --tls-dir=~/.config/p2pfs/tls peers
"""


def synopsis(verb: str) -> str:
    """The usage line of one verb."""
    usages = USAGE.partition("\nUsage:\n")[2].partition("\n\n")[0].split("  p2pfs-cli ")
    words = next(words for words in map(str.split, usages) if words[1:2] == [verb])
    return " ".join(["p2pfs-cli", *words])


def explain_misuse(argv: list[str], verbs: list[str]) -> str:
    """Why these words cannot be parsed, and what can: docopt itself only says that they cannot."""
    import difflib
    import re

    known = re.findall(r"--[a-z][a-z-]*", USAGE)
    for word in argv:
        name = word.partition("=")[0]
        if name.startswith("--") and len(name) > 2 and not any(option.startswith(name) for option in known):
            return f"unknown option {name}{_nearest(difflib.get_close_matches(name, known, 1))}; see p2pfs-cli --help"
    words = [word for word in argv if not word.startswith("-")]
    verb = next((word for word in words if word in verbs), None)
    if verb is not None:
        return f"usage: {synopsis(verb)}\n       see p2pfs-cli --help"
    if not words:
        return f"a verb is missing: {', '.join(verbs)}; see p2pfs-cli --help"
    from p2pfs.crypt import without_key

    shown = without_key(words[0])
    return f"{shown!r} is no verb{_nearest(difflib.get_close_matches(words[0], verbs, 1))}; see p2pfs-cli --help"


def unknown_letter(argv: list[str]) -> str:
    """What is wrong with a word like -photos, which docopt takes for options with -h among them; empty: nothing."""
    import re

    for word in argv[:argv.index("--")] if "--" in argv else argv:
        if found := re.match(r"-[hq]*([^-hqo])", word):
            return f"unknown option -{found[1]}; a name that begins with - goes after --; see p2pfs-cli --help"
    return ""


def _nearest(matches: list[str]) -> str:
    return f", did you mean {matches[0]}?" if matches else ""
