"""Secrets and home paths leave every text; what only looks like one stays."""

import json
import random
import string

import pytest
from interpreter import python

from diag.values.redact import REDACTED, is_secret_name, redact, redact_paths, redact_values

S = "s3cr3tV4lue0fNoUse"  # the part that must never be seen again
HF = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ012345"


def rand(alphabet: str, length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(alphabet, k=length))


LETTERS, ALNUM = string.ascii_letters, string.ascii_letters + string.digits
UPPER = string.ascii_uppercase + string.digits


def phrases(text: str) -> list[str]:
    return [phrase.strip() for line in text.splitlines() for phrase in line.split(" | ")]


BY_SHAPE = [
    HF,
    "hf_" + rand(LETTERS, 34, 1),
    "hf_" + rand(string.ascii_lowercase, 34, 2),
    "hf_AbC123xyz",
    "sk-" + rand(ALNUM, 48, 3) + "7",
    "sk-proj-" + rand(ALNUM, 40, 4) + "7_x-y",
    "github_pat_" + rand(ALNUM, 22, 8) + "_" + rand(ALNUM, 59, 9),
    "xoxb-" + rand(string.digits, 12, 14) + "-" + rand(ALNUM, 24, 15),
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nabc\n-----END RSA PRIVATE KEY-----",
]
LENGTHS = {"ghp_": 36, "gho_": 36, "glpat-": 20, "AIza": 35, "npm_": 36, "pypi-": 60, "nvapi-": 40, "sk-ant-api03-": 40}
BY_SHAPE += [prefix + rand(ALNUM, length, 5) for prefix, length in LENGTHS.items()]
BY_SHAPE += [prefix + rand(UPPER, 16, 11) for prefix in ("AKIA", "ASIA")]
AROUND = [
    "{}",
    "401 Client Error for token {}",
    "['{}']",
    '{{"a": "{}"}}',
    "https://hub.example/api?x={}&y=1",
    "ValueError: bad {}, try again.",
    "\x1b[31m{}\x1b[0m",
    "<td>{}</td>",
    "`{}`",
]


@pytest.mark.parametrize("secret", BY_SHAPE)
@pytest.mark.parametrize("around", AROUND)
def test_a_token_is_known_by_its_shape_wherever_it_stands(secret, around):
    text = around.format(secret)
    assert secret not in redact(text, {})
    assert redact(text, {}) == around.format(REDACTED)


def test_a_private_key_that_is_cut_off_is_hidden_to_the_end():
    assert redact("before\n-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\naC1rZXkt", {}) == f"before\n{REDACTED}"


BY_NAME = phrases("""token={} | token='{}' | token="{}" | token = {} | "token": "{}" | {{'token': '{}'}}
    &quot;token&quot;: &quot;{}&quot; | headers['token'] = '{}' | password={} | password: {} | Password : {} | passwd={}
    db.password={} | db_password={} | PGPASSWORD_MAIN={} | api_key={} | api-key: {} | apiKey: '{}' | apikey={}
    OPENAI_API_KEY={} | export WANDB_KEY={} | AWS_SECRET_ACCESS_KEY={} | aws_secret_access_key = {} | client_secret={}
    secret={} | "secret": "{}" | passphrase={} | private_key={} | credential={} | access_token={} | HF_TOKEN={}
    HF_TOKEN_READ={} | HUGGING_FACE_HUB_TOKEN: {} | refresh_token: {} | use_auth_token='{}' | auth={}
    GET /x?token={}&b=1 HTTP/1.1 | POST /login?user=a&password={} HTTP/1.1 | Authorization: Bearer {}
    Authorization: Basic {} | authorization: token {} | Proxy-Authorization: Basic {} | 'Authorization': 'Bearer {}'
    {{"headers": {{"authorization": "Basic {}"}}}} | X-Api-Key: {} | X-Auth-Token: {} | Cookie: session={}; theme=dark
    Bearer {} | https://user:{}@host.example/path | https://{}@host.example/path
    git+https://oauth2:{}@git.example/repo.git@v1 | http://proxy-user:{}@10.0.0.1:3128 | redis://:{}@cache:6379/0
    postgresql+psycopg://me:{}@db/x | run --token {} | run --api-key {} --model x | run --password '{}' | run --token={}
    login(token={}) | LoadSpec(model='x', token='{}', adapter=None) | some_service_key={} | account_key={}
    ValueError: password={} | config: a=1: HF_TOKEN={} | env=DB_PASSWORD={}""")
BY_NAME += ['json within json: "{{\\"token\\": \\"{}\\"}}"', "log:\ntoken={}"]


@pytest.mark.parametrize("text", BY_NAME)
def test_a_secret_is_known_by_the_name_beside_it_and_only_the_value_goes(text):
    alone = redact(text.format(S), {})
    assert S not in alone and REDACTED in alone
    before = text.format("|").partition("|")[0]
    got = redact(f"first line\n{text.format(S)}\nlast line token_ids=[1, 2]", {})
    assert got.startswith("first line\n") and got.endswith("\nlast line token_ids=[1, 2]")
    assert before.split("=")[0].split(":")[0].split("(")[0] in got


@pytest.mark.parametrize(
    "password", ["hunter2", "a,b", "p@ss", "with:colon", "ünïcode", "x" * 300, "123456", "$ecret", "!#%^*"]
)
def test_an_odd_password_is_hidden_whole_when_it_is_quoted(password):
    assert password not in redact(f'{{"password": "{password}", "user": "me"}}', {})
    assert redact(f"password='{password}', user='me'", {}) == f"password='{REDACTED}', user='me'"


@pytest.mark.parametrize("password", ["p@ss", "pa:ss", "a%40b", "a?b", "x!y"])
def test_an_odd_password_in_an_address_is_hidden_whole(password):
    assert redact(f"see http://me:{password}@host:8080/x.", {}) == f"see http://{REDACTED}@host:8080/x."


ORDINARY = phrases("""token_ids=[450, 7483, 310] | token_ids: tensor([[1, 450]])
    tokenizer=LlamaTokenizerFast(name_or_path='tiny', vocab_size=512) | tokenizer: PreTrainedTokenizerFast
    input_ids = tokenizer(prompt).input_ids | TOKENIZERS_PARALLELISM=false | max_new_tokens=128, num_tokens: 12
    pad_token='<pad>', eos_token='</s>', bos_token=<s>, cls_token='[CLS]' | pad_token_id=0, eos_token_id: 2
    image_token='<image>' | the next token: 'Paris' | next token: Paris | token: 450 (' Paris')
    unexpected token: Identifier | SyntaxError: invalid token: expected ')'
    Token indices sequence length is longer than the specified maximum | token=None, use_auth_token=False, password=None
    token=os.environ['HF_TOKEN'] | token=os.environ.get("HF_TOKEN") | token = kwargs.pop('token', None)
    headers["Authorization"] = f"Bearer {token}" | password=${PASSWORD} | token=$HF_TOKEN | --token $HF_TOKEN
    --token-ids 3 4 --key-cache auto | past_key_values=DynamicCache(layers=[DynamicLayer])
    key_states: torch.Size([1, 2, 5, 16]) | model.layers.0.self_attn.k_proj.weight: torch.float32
    KeyError: 'model.layers.1.self_attn.q_proj.weight' | key='model.layers.1.mlp.up_proj.weight'
    missing_keys=['lm_head.weight'], unexpected_keys=[] | sort_key=lambda row: row.name | key: value | primary_key=name
    author: Somebody, authors=3, authority=x | hf_device_map={'model.embed_tokens': 0, 'lm_head': 'disk'}
    model.hf_quantizer.quantization_config.bnb_4bit_quant_type
    hf_hub_download, hf_transfer, hf_xet, hf_device_map_is_absent
    RuntimeError: Tensor on device cuda:0 is not on the expected device meta!
    disk-offloaded-weights-in-folder-12345678 | task-specific-head-000000001 | scikit-learn sk-learn
    accelerate.hooks.AlignDevicesHook(execution_device=cpu, offload=True)
    transformers/models/llama/modeling_llama.py:93: in forward | git+https://github.com/huggingface/transformers@v5.0.0
    ssh://git@github.com/me/repo | git@github.com:me/repo.git | me@example.com wrote: it fails
    revision 4f1a8d4b0c9e6f7a3b2c1d0e9f8a7b6c5d4e3f2a
    sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    lm_head.weight tied to model.embed_tokens.weight | secretary: Ann | The secret: be patient.
    Authorization: required | authorization is missing | basic auth is not supported | a bearer of news | cookie: none
    the password is asked for twice | /homepage/index.html and /rooted/x and /home
    /usr/lib/python3.11/site-packages/torch/nn/modules/module.py | s3://bucket/key/with/path
    float32[3, 4] n=12 x∈[-1, 1] | 10:15:00 loading shard 2/6 | a:b@c:d
    https://huggingface.co/docs/transformers/main_classes/model#transformers.PreTrainedModel""")
ORDINARY += [
    '"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"',
    "def login(token: str | None = None, password: Optional[str] = None) -> None:",
    "    return hf_hub_download(repo_id, token=token)",
    "    return hf_hub_download(repo_id, token=hf_token, headers=headers)",
    "    headers = build_hf_headers(token=self.token, use_auth_token=use_auth_token)",
    "C:\\Program Files\\Python311\\python.exe",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text):
    assert redact(text, {}) == text


HOMES = ["/home/alice/x", "C:\\Users\\bob\\x"]


@pytest.mark.parametrize("text", [*(t.format(S) for t in BY_NAME), *BY_SHAPE, *ORDINARY, *HOMES])
def test_redacting_twice_changes_nothing_more(text):
    once = redact(text, {})
    assert redact(once, {}) == once


@pytest.mark.parametrize("seed", range(200))
def test_a_random_secret_never_survives_random_surroundings(seed):
    rng = random.Random(seed)
    value = rng.choice("aZ") + "".join(rng.choices(ALNUM + "-_.~+", k=rng.randint(11, 60))) + "9k"
    template = rng.choice(BY_NAME)
    left, right = (" ".join(rng.choices(ORDINARY, k=2)) for _ in range(2))
    assert value not in redact(f"{left}\n{template.format(value)}\n{right}", {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/alice/models/x", "~/models/x"),
        ("at /home/alice", "at ~"),
        ("'/home/alice.b-c/x'", "'~/x'"),
        ("/Users/alice/Library/Caches", "~/Library/Caches"),
        ("C:\\Users\\bob\\model", "~\\model"),
        ("c:\\users\\bob\\model", "~\\model"),
        ("C:/Users/bob/model", "~/model"),
        ("'C:\\\\Users\\\\bob\\\\model'", "'~\\\\model'"),
        ("C:\\Users\\John Smith\\model", "~\\model"),
        ("C:\\Users\\bob", "~"),
        ("/root/.cache/huggingface", "~/.cache/huggingface"),
        ('File "/root/x.py", line 3', 'File "~/x.py", line 3'),
        ("HOME=/root", "HOME=~"),
        ("PATH=/usr/bin:/home/alice/bin:/root/bin", "PATH=/usr/bin:~/bin:~/bin"),
        ("file:///home/alice/x", "file://~/x"),
        ("/mnt/home/alice/x", "/mnt/home/<user>/x"),
        ("/mnt/c/Users/bob/x", "/mnt/c/Users/<user>/x"),
        ("(/home/alice/x)", "(~/x)"),
        ("/home/alice/a /home/bob/b", "~/a ~/b"),
    ],
)
def test_home_paths_lose_the_name_of_their_owner(text, expected):
    assert redact_paths(text) == expected
    assert redact(text, {}) == expected


def test_a_home_in_an_unusual_place_is_known_from_the_environment(monkeypatch):
    monkeypatch.setenv("HOME", "/data/people/alice")
    monkeypatch.setenv("USERPROFILE", "/data/people/alice")
    assert redact_paths("/data/people/alice/x and /data/people/alice2/x") == "~/x and /data/people/alice2/x"


def test_a_secret_of_the_environment_is_hidden_wherever_it_appears():
    environ = {"MY_SERVICE_TOKEN": "odd value-42!", "HTTPS_PROXY": "http://me:pr0xyp%40ss@host:1", "PATH": "/usr/bin"}
    text = redact("said odd value-42! then pr0xyp@ss and pr0xyp%40ss in /usr/bin", environ)
    assert text == f"said {REDACTED} then {REDACTED} and {REDACTED} in /usr/bin"


def test_short_and_plain_values_of_the_environment_do_not_eat_other_words():
    environ = {"DB_PASSWORD": "postgres", "A_TOKEN": "1", "SECRET_FILE": "/run/secrets/x", "X_TOKEN": "disabled"}
    assert redact("postgres is disabled, 1 of /run/secrets/x", environ) == "postgres is disabled, 1 of /run/secrets/x"


def test_this_processs_environment_is_used_when_none_is_given():
    code = "from diag.values.redact import redact; print(redact('x wrd-0815-zz y'))"
    assert python("-c", code, env={"APP_TOKEN": "wrd-0815-zz"}).stdout == f"x {REDACTED} y\n"


def test_settings_are_redacted_by_name_by_shape_and_deep_inside():
    settings = {
        "HF_TOKEN": "anything at all",
        "password": 1234567,
        "credentials": {"user": "me", "list": ["a", "b"]},
        "model": "tiny",
        "nested": [{"api_key": S}, (HF, "/home/alice/x"), "eos_token=</s>"],
        "https_proxy": f"http://me:{S}@host:1",
        "token": None,
        "use_auth_token": True,
        "token_ids": [1, 2],
        "eos_token": "</s>",
        "KEY": "value",
        "timeout": 3.5,
        3: HF,
        HF: 3,
    }
    got = redact_values(settings, {})
    assert S not in repr(got) and HF not in repr(got)
    assert got["HF_TOKEN"] == got["password"] == got["KEY"] == REDACTED
    assert got["credentials"] == {"user": REDACTED, "list": [REDACTED, REDACTED]}
    assert got["nested"] == [{"api_key": REDACTED}, (REDACTED, "~/x"), "eos_token=</s>"]
    assert got["https_proxy"] == f"http://{REDACTED}@host:1"
    for same in ("model", "token", "use_auth_token", "token_ids", "eos_token", "timeout"):
        assert got[same] == settings[same]
    assert settings["HF_TOKEN"] == "anything at all"


def test_redacted_settings_are_still_json():
    text = json.dumps({"token": S, "url": f"https://u:{S}@h", "n": 1, "text": 'say "hi"', "eos_token": "</s>"})
    assert json.loads(redact(text, {}))["n"] == 1
    assert json.loads(redact(json.dumps({"inner": text}), {}))


HOLD_SECRETS = """HF_TOKEN TOKEN hf_token SECRET MY_SECRET_1 PASSWORD db.password PASSWD API_KEY apiKey x-api-key KEY
    SSH_KEY AUTH Authorization credential CREDENTIALS HFToken GITHUB_TOKEN_PROD NPM_AUTH accessToken
    AWS_SECRET_ACCESS_KEY""".split()
HOLD_NONE = """token_ids TOKENIZERS_PARALLELISM tokenizer max_new_tokens eos_token pad_token_id key k_proj
    past_key_values author HF_TOKEN_PATH SSH_AUTH_SOCK key_states model.layers.0.weight monkey HF_HOME
    CUDA_VISIBLE_DEVICES passive""".split()


@pytest.mark.parametrize("name", [*HOLD_SECRETS, *HOLD_NONE])
def test_a_name_tells_whether_it_holds_a_secret(name):
    assert is_secret_name(name) == (name in HOLD_SECRETS)


@pytest.mark.timeout(60)  # a pattern that goes back over its text needs hours for this
def test_a_large_report_is_read_without_going_back_over_it():
    blob = rand(ALNUM + "+/", 400_000, 1) + "=" + "a" * 400_000 + "token" * 50_000 + "http://" * 20_000 + "/" * 100_000
    assert redact(f"{blob} token={S} {blob}", {}) == f"{blob} token={REDACTED} {blob}"
