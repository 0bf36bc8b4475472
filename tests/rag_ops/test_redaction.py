"""URLs without their secrets: those of each store's own scheme of signing, whatever stands around them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_ops.errors import InputError
from rag_ops.redaction import public, public_text, public_url

SIGNED = {
    "S3, version 4": "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=planted%2F2030%2Fus-east-1%2Fs3%2Faws4_request"
    "&X-Amz-Date=20300101T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=planted",
    "S3, a session": "X-Amz-Security-Token=planted%2F%2B%3D&x-amz-signature=planted&x-id=GetObject",
    "S3, version 2": "AWSAccessKeyId=planted&Expires=1900000000&Signature=planted%2Bx%3D",
    "Google": "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=planted&X-Goog-Signature=planted",
    "Google, version 2": "GoogleAccessId=planted%40project.iam&Expires=1900000000&Signature=planted",
    "Azure's SAS": "sv=2030-01-01&ss=b&srt=o&sp=r&se=2030-01-01T00%3A00%3A00Z&st=2030&spr=https&sip=10.0.0.1&sr=b"
    "&skoid=planted&sktid=planted&skt=2030&ske=2031&sks=b&skv=2030&sig=planted%3D",
    "CloudFront": "Expires=1900000000&Signature=planted&Key-Pair-Id=planted&Policy=planted",
    "OSS": "OSSAccessKeyId=planted&Expires=1900000000&Signature=planted&security-token=planted",
    "COS": "q-sign-algorithm=sha1&q-ak=planted&q-sign-time=1;2&q-key-time=1;2&q-header-list=host&q-signature=planted",
    "OAuth": "access_token=planted",
    "an API's key": "api_key=planted",
    "WebHDFS": "op=OPEN&user.name=planted&delegation=planted",
    "Dropbox": "rlkey=planted&dl=1",
    "a name in another spelling": "%74oken=planted&PASSWORD=planted",
}
LEFT = {"WebHDFS": "?op=OPEN", "Dropbox": "?dl=1"}


@pytest.mark.parametrize("kind", SIGNED)
def test_what_a_store_signs_with_is_left_out(kind):
    left = LEFT.get(kind, "")
    assert public_url(f"https://host/dir/a.jsonl?{SIGNED[kind]}") == f"https://host/dir/a.jsonl{left}"
    among = public_url(f"https://host/a?version=3&{SIGNED[kind]}&part=2#top")
    assert among == f"https://host/a?version=3{left.replace('?', '&')}&part=2#top"
    chained = public_url(f"simplecache::zip://a.csv::https://me:planted@host/a.zip?{SIGNED[kind]}")
    assert chained == f"simplecache::zip://a.csv::https://host/a.zip{left}"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "/data/a b?token=1.jsonl",
            "a::b",
            "gs://bucket/dir/a.jsonl",
            "https://host:8080/a@b?version=3",
            "hf://u/r@main/a",
        ),
        *("abfs://container@account/dir", "github://org:repo@sha/a", "zip://a.csv::/data/a.zip", "http://[::1]:80/a@b"),
        *("https://host/get?file=dir/a.jsonl&sort=desc", "file:///a?token=1", "s3://bucket/a@b:c", "C:\\a", ""),
    ],
)
def test_what_holds_no_secret_stays(url):
    assert public_url(url) == url


@pytest.mark.parametrize("password", ["w:rd", "w@rd", "w::rd", "w'rd", "w%2Frd", "w/rd+x", "", "äö"])
def test_whatever_a_password_holds(password):
    assert public_url(f"ftp://me:{password}@host/a") == "ftp://host/a"
    assert public_text(f"cannot open 'ftp://me:{password}@host/a', line 3") == "cannot open 'ftp://host/a', line 3"


def test_an_error_holds_none_though_its_value_is_cut():
    url = "https://host/" + "a" * 150 + "?X-Amz-Signature=planted" + "b" * 200
    error = InputError("no such file", value=url, expected="https://me:planted@host/a", remedy=f"look at {url}")
    assert "planted" not in str(error)
    assert "bbb" not in str(error)
    listed = InputError("no such files", value=[url, {"url": url}])
    assert "planted" not in str(listed)


def test_a_path_with_a_query_in_a_librarys_words():
    line = (
        "HTTPConnectionPool(host='h', port=80): Max retries exceeded with url: /a?X-Amz-Signature=planted (Caused by x)"
    )
    assert public_text(line) == line.replace("?X-Amz-Signature=planted", "")


word = st.text("abcXYZ019-._~!$%*+", min_size=4, max_size=12)


@settings(max_examples=300)
@given(
    st.sampled_from(["https", "s3", "sftp", "ftp", "webdav"]),
    word,
    word,
    st.sampled_from(["sig", "X-Amz-Signature", "access_token", "Signature", "token"]),
    st.sampled_from(["{}", "'{}'", "({})", "url='{}')", "no file: {}, row 3", "<{}>", "{};", 'say "{}"']),
)
def test_no_secret_is_left_wherever_a_url_stands(scheme, user, word, parameter, around):
    secret = f"PLANTED{word}"
    url = f"{scheme}://{user}:{secret}@host/dir/a.jsonl?part=1&{parameter}={secret}"
    assert public_url(url) == f"{scheme}://host/dir/a.jsonl?part=1"
    assert "PLANTED" not in public_text(around.format(url))
    assert "PLANTED" not in json.dumps(public({"inputs": [url], url: {"a": (around.format(url), 1, None)}}))
    assert public(public(url)) == public(url)
