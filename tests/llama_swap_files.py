"""
Configurations of llama-swap, and the words of the commands in them, with 9500 for the port.

`python -m bench.moving` has the real llama-swap start each command, and compares the words that it gets.
"""

from collections.abc import Mapping
from typing import NamedTuple


class File(NamedTuple):
    """A configuration's *text*, and by model the *words* that its command is."""

    text: str
    words: Mapping[str, tuple[str, ...]]


ENVIRONMENT = {
    "MODELS": "/srv/models",
    "FLAGS": "-a  -b",
    "KEY": "sk-from-the-environment",
    "PORT_0": "9500",
    "SERVER": "http://h:9500",
}

LONG = " ".join(f"--override-kv key.{number}=int:{number}" for number in range(700))

FILES = {
    "the least": File(
        "models: {m: {cmd: 'serve --port ${PORT} -m /m.gguf'}}",
        {"m": ("serve", "--port", "9500", "-m", "/m.gguf")},
    ),
    "lines, comments and backslashes": File(
        r"""
models:
  m:
    cmd: |
      # the first line says nothing
      serve --port ${PORT} \
        --flag \

        # in the middle ${PORT} { "
        --last # no comment
""",
        {"m": ("serve", "--port", "9500", "--flag", "--last", "#", "no", "comment")},
    ),
    "a backslash ends a word": File(
        "models:\n  m:\n    cmd: |\n      serve ab\\\n      cd --port ${PORT} 'e \\\n      f'\n",
        {"m": ("serve", "ab", "cd", "--port", "9500", "e  \nf")},
    ),
    "folded, with options enough for several lines": File(
        """
models:
  m:
    cmd: >
      serve --host 127.0.0.1 --port ${PORT} --flash-attn on --slots --ctx-size 32000
      --samplers "top_k;top_p;min_p;temperature;dry;typ_p;xtc" --temp 0.6 -ngl 99

      --model /models/Qwen_QwQ-32B-Q4_K_M.gguf
""",
        {
            "m": (
                *("serve", "--host", "127.0.0.1", "--port", "9500", "--flash-attn", "on", "--slots"),
                *("--ctx-size", "32000", "--samplers", "top_k;top_p;min_p;temperature;dry;typ_p;xtc"),
                *("--temp", "0.6", "-ngl", "99", "--model", "/models/Qwen_QwQ-32B-Q4_K_M.gguf"),
            )
        },
    ),
    "macros of all types, in macros": File(
        """
macros:
  Ctx-Size: 4096
  temp: 1.0
  small: 0.00001
  jinja: true
  flash: on
  octal: 010
  args: --ctx-size ${Ctx-Size} --temp ${temp} --flash-attn ${flash}
  server: "serve ${args} --port ${PORT}"
models:
  a: {cmd: "${server} ${small} ${jinja} ${octal}"}
  b: {cmd: "${server}"}
""",
        {
            "a": (
                *("serve", "--ctx-size", "4096", "--temp", "1", "--flash-attn", "on", "--port", "9500"),
                *("1e-05", "true", "8"),
            ),
            "b": ("serve", "--ctx-size", "4096", "--temp", "1", "--flash-attn", "on", "--port", "9500"),
        },
    ),
    "a model's own macros go before": File(
        """
macros: {ctx: 4096, args: "-c ${ctx}", bin: serve}
models:
  a: {macros: {ctx: 16384, more: "--x ${ctx}"}, cmd: "${bin} ${args} ${more} --port ${PORT}"}
  b: {macros: {bin: "serve --fast"}, cmd: "${bin} ${args} --port ${PORT}"}
  c: {cmd: "${bin} ${args} --port ${PORT}"}
""",
        {
            "a": ("serve", "-c", "16384", "--x", "16384", "--port", "9500"),
            "b": ("serve", "--fast", "-c", "4096", "--port", "9500"),
            "c": ("serve", "-c", "4096", "--port", "9500"),
        },
    ),
    "macros of lines, with comments and quotes": File(
        """
macros:
  long: |
    serve --port ${PORT}
    # said of the next
    --alias 'two  words' \\
    --end
  quote: '"a b"'
models:
  m: {cmd: "${long} ${quote} --x=${quote}"}
  n:
    cmd: |
      # ${long} is above
      ${long}
      -n 1
""",
        {
            "m": ("serve", "--port", "9500", "--alias", "two  words", "--end", "a b", "--x=a b"),
            "n": ("serve", "--port", "9500", "--alias", "two  words", "--end", "-n", "1"),
        },
    ),
    "the environment": File(
        """
macros: {dir: "${env.MODELS}/gguf"}
startPort: 9500
models:
  m: {cmd: "serve -m ${dir}/m.gguf ${env.FLAGS} '${env.FLAGS}' --port ${PORT}", env: ["DIR=${env.MODELS}"]}
""",
        {"m": ("serve", "-m", "/srv/models/gguf/m.gguf", "-a", "-b", "-a  -b", "--port", "9500")},
    ),
    "the model's name": File(
        """
models:
  "org/m:q4": {cmd: "serve --alias ${MODEL_ID} --port ${PORT}"}
  "two words": {cmd: "serve --alias ${MODEL_ID} --port ${PORT}"}
  "it's": {cmd: "serve --alias \\"${MODEL_ID}\\" --port ${PORT}"}
""",
        {
            "org/m:q4": ("serve", "--alias", "org/m:q4", "--port", "9500"),
            "two words": ("serve", "--alias", "two", "words", "--port", "9500"),
            "it's": ("serve", "--alias", "it's", "--port", "9500"),
        },
    ),
    "quotes": File(
        r"""
models:
  m:
    cmd: |
      serve 'single "quoted"' "double 'quoted' \" \\ \$ \x \`" back\ slash \"
      '' "" a''b'c d'"e f" --gpus '"device=2,3"' --port ${PORT}
""",
        {
            "m": (
                *("serve", 'single "quoted"', "double 'quoted' \" \\ $ \\x `", "back slash", '"'),
                *("", "", "abc de f", "--gpus", '"device=2,3"', "--port", "9500"),
            )
        },
    ),
    "a quote that nothing closes": File(
        'models: {m: {cmd: "serve --port ${PORT} \'the end"}}', {"m": ("serve", "--port", "9500", "the end")}
    ),
    "braces and JSON": File(
        r"""
models:
  m:
    cmd: |
      serve --json '{"port":${PORT},"a":{"b":${PORT}}}' {} {port} {model} {{port}} {x}y{z}
      --kwargs '{"enable_thinking":false}' {"think":true} "{a}" '{{ messages }}' '{% if x %}' {${PORT}}
      {{${PORT}}} --port=${PORT}
""",
        {
            "m": (
                *("serve", "--json", '{"port":9500,"a":{"b":9500}}', "{}", "{port}", "{model}", "{{port}}"),
                *("{x}y{z}", "--kwargs", '{"enable_thinking":false}', "{think:true}", "{a}"),
                *("{{ messages }}", "{% if x %}", "{9500}", "{{9500}}", "--port=9500"),
            )
        },
    ),
    "what only a shell would know": File(
        r"""
models:
  m: {cmd: "serve $HOME ${HOME:-/x} '${A.b}' $(reboot) `reboot` *.gguf ~ a;b > | '>' && --port ${PORT}"}
  n: {cmd: "sh -c 'exec serve --dir \"${X:-/none}\" --port ${PORT}; true'"}
""",
        {
            "m": (
                *("serve", "$HOME", "${HOME:-/x}", "${A.b}", "$(reboot)", "`reboot`", "*.gguf", "~", "a;b"),
                *(">", "|", ">", "&&", "--port", "9500"),
            ),
            "n": ("sh", "-c", 'exec serve --dir "${X:-/none}" --port 9500; true'),
        },
    ),
    "all the world's letters": File(
        """
models:
  "модель-模型-🦙": {cmd: "serve --alias ${MODEL_ID} 'ünï—cödé' \\u00a0x 👩‍💻 \\uE0A0 --port ${PORT}"}
""",
        {
            "модель-模型-🦙": (
                *("serve", "--alias", "модель-模型-🦙", "ünï—cödé", "\u00a0x", "👩‍💻", "\ue0a0"),
                *("--port", "9500"),
            )
        },
    ),
    "a long command": File(
        f"models: {{m: {{cmd: 'serve {LONG} --port ${{PORT}}'}}}}",
        {"m": ("serve", *LONG.split(), "--port", "9500")},
    ),
    "anchors and merges": File(
        """
x-base: &base {ttl: 60, env: [A=1], checkEndpoint: /up}
x-cmd: &cmd serve --port ${PORT} --alias ${MODEL_ID}
models:
  a: {<<: *base, cmd: *cmd}
  b: {<<: *base, cmd: *cmd, ttl: 0, checkEndpoint: none}
""",
        {
            "a": ("serve", "--port", "9500", "--alias", "a"),
            "b": ("serve", "--port", "9500", "--alias", "b"),
        },
    ),
    "how they are stopped": File(
        """
unloadTimeout: 20
models:
  container:
    cmd: docker run --rm --name ${MODEL_ID} -p ${PORT}:8080 image
    cmdStop: docker stop ${MODEL_ID}
  term: {cmd: "serve --port ${PORT}", cmdStop: "kill -TERM ${PID}"}
  int: {cmd: "serve --port ${PORT}", cmdStop: "kill -INT ${PID}", unloadTimeout: 60}
  hard: {cmd: "serve --port ${PORT}", cmdStop: "stop 'a b' it's$x' -p${PID}:${PORT} {y} \\"${Z:-}\\""}
""",
        {
            "container": ("docker", "run", "--rm", "--name", "container", "-p", "9500:8080", "image"),
            "term": ("serve", "--port", "9500"),
            "int": ("serve", "--port", "9500"),
            "hard": ("serve", "--port", "9500"),
        },
    ),
    "where they answer": File(
        """
healthCheckTimeout: 5
models:
  fixed: {cmd: serve --port 5850, proxy: "http://127.0.0.1:5850", checkEndpoint: none}
  path: {cmd: "serve ${PORT}", proxy: "http://localhost:${PORT}/api", checkEndpoint: "/up?full=1"}
  other: {cmd: "serve ${PORT}", proxy: "http://127.0.0.1:${PORT}", checkEndpoint: /}
  host: {cmd: "serve ${PORT}", proxy: "http://[::1]:${PORT}"}
""",
        {
            "fixed": ("serve", "--port", "5850"),
            "path": ("serve", "9500"),
            "other": ("serve", "9500"),
            "host": ("serve", "9500"),
        },
    ),
    "their environment": File(
        """
models:
  m:
    cmd: serve --port ${PORT}
    env: ["CUDA_VISIBLE_DEVICES=0,1", "EMPTY=", "URL=http://h:${PORT}/?a=b", 'J={"a":{"p":${PORT}}} {x}',
          "NAME=${MODEL_ID}", "Q='\\"", "A=1", "A=2"]
""",
        {"m": ("serve", "--port", "9500")},
    ),
    "names, parameters and limits": File(
        """
globalTTL: 300
includeAliasesInList: true
models:
  m:
    cmd: serve --port ${PORT}
    name: "A name"
    description: "What it is: a model"
    aliases: [gpt-4o, "no", 1.5, "a b"]
    useModelName: "org/m: x"
    concurrencyLimit: 7
    unlisted: yes
    filters:
      strip_params: "temperature, top_k, model, nested.field, temperature,"
      setParams: {top_p: 0.5, stop: ["</s>", "${MODEL_ID}"], n_predict: 100, dry_multiplier: 0.8, model: x}
      setParamsByID:
        "${MODEL_ID}:creative": {temperature: 1.5}
        "gpt-4o": {temperature: 0}
  n: {cmd: "serve --port ${PORT}", ttl: 0, metadata: {port: "${PORT}"}, sendLoadingState: true}
""",
        {"m": ("serve", "--port", "9500"), "n": ("serve", "--port", "9500")},
    ),
    "groups": File(
        """
groups:
  chat: {members: [a, b]}
  small: {swap: false, exclusive: false, members: [e, r]}
  forever: {persistent: true, swap: false, exclusive: false, members: [w]}
models:
  a: &m {cmd: "serve --port ${PORT}"}
  b: *m
  c: *m
  e: *m
  r: *m
  w: *m
hooks: {on_startup: {preload: [w, " a ", nobody]}}
""",
        dict.fromkeys("abcerw", ("serve", "--port", "9500")),
    ),
    "a matrix of sets": File(
        """
routing:
  router:
    use: matrix
    settings:
      matrix:
        vars: {g: gemma, q: qwen}
        evict_costs: {v: 50}
        sets:
          llms: g | q
          all: "+llms & v & (e | r)"
          alone: big
  scheduler: {use: fifo, settings: {fifo: {priority: {gemma: 5}}}}
models:
  gemma: &m {cmd: "serve --port ${PORT}"}
  qwen: *m
  v: *m
  e: *m
  r: *m
  big: *m
""",
        dict.fromkeys(("gemma", "qwen", "v", "e", "r", "big"), ("serve", "--port", "9500")),
    ),
    "keys and peers": File(
        """
apiKeys: [sk-secret-1, "${env.KEY}"]
models: {m: {cmd: "serve --port ${PORT}", aliases: [shared]}}
peers:
  other:
    proxy: http://192.168.1.23:8080
    models: [x, m, org/y]
  "Open Router":
    proxy: https://openrouter.ai/api
    apiKey: sk-or-secret
    models: [x, z]
    filters: {stripParams: "top_k, temperature", setParams: {temperature: 0.5, provider: {zdr: true}}}
    timeouts: {connect: 5}
""",
        {"m": ("serve", "--port", "9500")},
    ),
    "everything else": File(
        """
logLevel: warn
logTimeFormat: rfc3339
logToStdout: both
logRequests: true
metricsMaxInMemory: 10
captureBuffer: 0
store: {path: /tmp/x.sqlite}
ui: {activity: {session_id: []}}
performance: {disabled: true}
upstream: {ignorePaths: ["^/ws$"]}
profiles: {coding: {pins: {llm-code: m, off: ~}}}
selectors:
  best: {strategy: warm, targets: [m, n]}
  one: {strategy: pin, targets: [alias-of-n]}
models:
  m: {cmd: "serve --port ${PORT}", timeouts: {responseHeader: 60}, compat: {ignoreWebsockets: true}}
  n: {cmd: "serve --port ${PORT} --api-key x", aliases: [alias-of-n], capabilities: {context: 4096}}
""",
        {"m": ("serve", "--port", "9500"), "n": ("serve", "--port", "9500", "--api-key", "x")},
    ),
    "names that YAML might take for more": File(
        """
models:
  on: {cmd: "serve --port ${PORT}"}
  "123": {cmd: "serve --port ${PORT}"}
  "1.50": {cmd: "serve --port ${PORT}"}
  "~": {cmd: "serve --port ${PORT}"}
  "a: b # c": {cmd: "serve --port ${PORT}"}
  "${x}": {cmd: "serve --port ${PORT}"}
  "line\\nbreak": {cmd: "serve --port ${PORT}"}
  "-": {cmd: "serve --port ${PORT}", aliases: ["", "null", "0x10", "{a}", "[b]", "&c", "!d"]}
""",
        dict.fromkeys(
            ("on", "123", "1.50", "~", "a: b # c", "${x}", "line\nbreak", "-"), ("serve", "--port", "9500")
        ),
    ),
}
"""By what is particular about each."""
