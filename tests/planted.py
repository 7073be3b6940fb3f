"""Secrets to plant, one of each shape, and what must not be taken for one. None of them was ever valid.

Put together here, so that no scanner of repositories takes this file for a leak.
"""

import json
import re

LETTERS = "Zq7Xw3Kd9Lm2Vb8Rt5Hy1Nc4Pf6Gj0SxTa"
WORD = re.compile(r"Zq7\w{5,}|zq7\w{5,}")  # the mark in every planted value
MARK, LOW = LETTERS[:20], LETTERS[:24].lower()
HEX = "2ab8f04" * 6

PLANTED = {
    "a password in an address": f"http://alice:{MARK}@127.0.0.1:1/b.zip",
    "a password with signs in an address": f"postgresql://alice:p@/{MARK}@127.0.0.1:1/b",
    "a password of nobody": f"redis://:{MARK}@127.0.0.1:1/0",
    "a token in an address": f"https://{MARK}@127.0.0.1:1/b",
    "S3 keys in an address": "s3://" + "AKIA" + f"IOSFODNN7EXAMPL:{MARK}/{MARK}@bucket/x",
    "an address in an address": f"https://h.example/?to=https%3A%2F%2Falice%3A{MARK}%40h",
    "AWS signature": f"https://b.s3.example/x?X-Amz-Date=2026&X-Amz-Signature={LOW}&X-Amz-Expires=9",
    "AWS old signature": f"https://b.s3.example/x?AWSAccessKeyId=AKIAIOSFODNN7EXAMPL&Signature={MARK}%3D",
    "Azure SAS": f"https://a.blob.example/c/x?sv=2024-01-01&se=2027&sr=b&sig={MARK}%3D",
    "GCS signature": f"https://storage.example/b/x?X-Goog-Algorithm=G&X-Goog-Signature={LOW}",
    **{
        f"query {name}": f"https://h.example/x?a=1&{name}={MARK}"
        for name in ("token", "key", "password", "api_key", "apikey", "access_token", "authToken", "secret", "auth")
    },
    "code of a function": f"https://f.example/api/go?code={MARK}{MARK}==",
    "AWS key and secret": "AKIA" + f"IOSFODNN7EXAMPL {MARK}/{MARK[:19]}",
    "AWS secret by name": f"aws_secret_access_key = {MARK}/{MARK[:19]}",
    "hub": "hf_" + LETTERS,
    "GitHub": "ghp_" + LETTERS,
    "GitHub of OAuth": "gho_" + LETTERS,
    "GitHub of a person": "github_pat_" + LETTERS,
    "GitLab": "glpat-" + MARK,
    "Slack": "xoxb-1234567890-" + MARK,
    "Slack webhook": f"https://hooks.slack.example/services/T0/B0/{MARK}".replace(".example", ".com"),
    "Discord webhook": f"https://discord.example/api/webhooks/123/{MARK}".replace(".example", ".com"),
    "Teams webhook": f"https://x.webhook.office.example/webhookb2/{MARK}@1/IncomingWebhook/2".replace(
        ".example", ".com"
    ),
    "Teams flow": f"https://p.logic.azure.example:443/workflows/1/triggers/manual/paths/invoke?sp=%2F&sv=1.0&sig={MARK}",
    "webhook of a chat": f"https://chat.example/hooks/{LOW}",
    "OpenAI": "sk-" + LETTERS * 2,
    "OpenAI of a project": "sk-proj-" + LETTERS,
    "Anthropic": "sk-ant-api03-" + LETTERS,
    "Weights and Biases by name": f"WANDB_API_KEY={LOW}",
    "Weights and Biases": f"wandb_v1_{MARK}",
    "JWT": f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.{MARK}",
    "private key": "-----BEGIN PRIVATE" + f" KEY-----\\n{LETTERS}{LETTERS}\\n-----END PRIVATE KEY-----",
    "Prefect user key": "pnu_" + LETTERS,
    "Prefect service key": "pnb_" + LETTERS,
    "npm": "npm_" + LETTERS,
    "PyPI": "pypi-AgEIcHlwaS5vcmc" + MARK,
    "Stripe": "sk_live_" + LETTERS,
    "Google": "AIza" + LETTERS,
    "connection string": f"Server=tcp:h;User=u;Password={MARK};Encrypt=yes",
    "storage connection string": f"AccountName=n;AccountKey={MARK}/{MARK}==;EndpointSuffix=x",
    "words of a connection": f"host=h user=u password={LOW} dbname=x",
    "bearer header": f"Authorization: Bearer {MARK}",
    "basic header": f"Authorization: Basic {MARK}=",
    "key header": f"X-Api-Key: {MARK}",
    "variable token": f"MY_SERVICE_TOKEN={LOW}",
    "variable secret": f"export MY_SECRET={LOW}",
    "variable password": f"DB_PASSWORD={LOW}",
    "variable key": f"DEPLOY_KEY={LOW}",
    "setting": f"db_password: {MARK}",
    "a password of a socket": f"postgresql+asyncpg://u:{MARK}@/db?host=/run/x",
    "a fragment": f"https://h.example/file/abc#{MARK}",
    "a token in a path": f"https://h.example/token/{MARK}/x",
    "a session in a path": f"https://h.example/x;jsessionid={MARK}",
    "an option": f"fetch --hf-token={MARK} x",
    "an option and a blank": f"fetch --password {MARK} x",
    "user and password": f"curl -u alice:{MARK} https://h.example",
    "a login by sshpass": f"sshpass -p {MARK} ssh h",
    "netrc": f"machine h login u password {MARK}",
    "a password by words": f"the password is {MARK}",
    "a token that was wrong": f"invalid token: {MARK}",
    "netrc of lines": f"machine h\n  login u\n  password {LOW}",
    "pgpass": f"h.example:5432:db:alice:{MARK}",
    "an address of MySQL's": f"alice:{MARK}@tcp(127.0.0.1:3306)/db",
    "an address without a scheme": f"alice:{MARK}@h.example:5432/db",
    "a client of MySQL's": f"mysql -ualice -p{MARK} db",
    "a client of redis's": f"redis-cli -h h -a {MARK}",
    "bytes": f"password=b'{MARK}'",
    "Dropbox": f"sl.{MARK}{MARK}{MARK}",
    "words that open": "passphrase: "
    + f"{LOW[:7].replace('7', 'q')} correct horse battery staple".replace("zqq", "zq"),
    "a tag": f"<db:password>{MARK}</db:password>",
    "a pair": f"('password', '{MARK}')",
    "a pair of bytes": f"(b'x-api-key', b'{MARK}')",
    "a key and its value": f'<add key="DbPassword" value="{MARK}"/>',
    "a variable of a pod": f"- name: DB_PASSWORD   value: {MARK}",
    "a variable of a pod in JSON": json.dumps({"name": "DB_PASSWORD", "value": MARK})
    .replace('"', "`")
    .replace("`", "'"),
    "an escaped sign": f"a%26password%3D{MARK}",
    "a protocol's name": f"Sec-WebSocket-Protocol: bearer.{MARK}",
    "a client's key": f"client-key-data: {MARK}{MARK}",
    "a hash of a password": f"root:$6$abcdefgh${MARK}{MARK}:19000:0",
    "PuTTY": f"Private-Lines: 14 {MARK}{MARK}",
    **{
        f"a token {prefix}": f"{prefix}{MARK}{MARK}"
        for prefix in ("whsec_", "sq0atp-", "pplx-", "tgp_v1_", "fw_", "rpa_", "FlyV1 fm2_", "ak-", "v2.local.", "api_")
    },
    "a bot of Discord": f"MTAxMjM0NTY3ODkwMTIzNDU2.GaBcDe.{MARK}abcdefg",
    "Airtable": f"pat{MARK[:14]}.{MARK}{MARK}",
    "Terraform": f"abcdefghijklmn.atlasv1.{MARK}{MARK}",
}
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
ORDINARY = [
    "", "plain words, and more of them: no secret at all", "step 01250/08352  loss 3.1415  lr x1.00  512 ms",
    DIGEST, DIGEST[:40], f"sha256:{DIGEST}", f"corpus/{DIGEST[:12]}", f"key={DIGEST}", f'"digest": "{DIGEST}"',
    f"token {DIGEST[:40]}", f"steps/tokens/{DIGEST}.json", "tiny-base@957bdd7c2551", "refs/heads/main", "v1.2.3-rc1",
    "tokens_per_param=12", "pretrain.tokens_per_param=12", "tokenizer.vocab_size=300", "n_kv_head=4", "monkey=banana",
    "key=value", "sort(key=lambda each: each.name)", "token: str", "password: str | None = None", "secret=secret",
    "connect(password=password, token=token)", "api_key=none", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "AWS_SECRET_ACCESS_KEY=...", "PREFECT_API_AUTH_STRING=user:password",
    "POSTGRES_PASSWORD: ${POSTGRES_PASSWORD:?set it}",
    "Authorization: Bearer ...", "os.environ['HF_TOKEN']", "token = os.environ.get(name)", "the bearer of bad news",
    "basic arithmetic and documentation", "a task-force of risk-takers asked for a disk-encryption-key",
    "http://127.0.0.1:4200/api", "https://host/datasets/owner/name/resolve/main/a.parquet?download=true",
    "https://host:8080/a/b@main/c", "ssh://git@host/owner/name.git", "s3://bucket/prefix/key", "tcp://10.0.0.5:8786",
    "/data/lang=en/part-00001.parquet", "/home/me/secrets.txt", "C:/Users/me/passwords", "hf:openai-community/gpt2-xl",
    "hf_hub_download(repo_id)", "hf_transformers_cache", "sk-learn", "npm_config_registry", "pypi-attestations",
    "VGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVyIHRoZSBsYXp5IGRvZy4gVGhlIHF1aWNrIGJyb3duIGZveA==",
    "eyJ0ZXh0IjogIlRoZSBxdWljayBicm93biBmb3gganVtcHMgb3ZlciB0aGUgbGF6eSBkb2cifQ==",
    "https://docs.github.com/en/webhooks/about-webhooks", "gpt2-20261122-101500-3f1c",
    "a1b2c3d4-e5f6-7890-abcd-ef1234567890",
    "diff --git a/x.py b/x.py\nindex 2ab8f04..9f86d08 100644\n--- a/x.py\n+++ b/x.py\n"
    "@@ -1 +1 @@\n-key = 1\n+key = 2\n",
    "docker run --user 1000:1000 -u root:root x", "https://h.example/guide.html#how-to-give-a-password-in-3-steps",
    "https://h.example/x.py#L10-L20", "make setup --token TOKEN --password '***'", "--token-file token.txt",
    "<password>", "<key>name</key>", "('password', 'required')", 'getenv("MY_TOKEN", "default")', 
    "{'name': 'tokens', 'value': 12}", "echo $1$2",
    "the token is sent with every request", "password is required", "passphrase: str", "a secret of 128 random bits",
    "v1.local.example", "ask-me-2-times", "pattern.match(patterns)", "api_version", "a token is 4 characters",
    'SERVER_AUTH = "PREFECT_SERVER_API_AUTH_STRING"',
    'CACHE_KEY = "gc/intent.json"', "webhook: str", "the password must be given", '"secret": "required"', "auth: none",
]  # fmt: skip
