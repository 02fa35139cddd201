import assert from "node:assert/strict";
import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync, zstdCompressSync } from "node:zlib";
import fc from "fast-check";
import { temporaryFolder } from "../../../test/support/folders.ts";
import { filesOfFolder, filesOfSplit, readRecords } from "./files.ts";
import { findJsonFault } from "./json-syntax.ts";

function fileOf(t: TestContext, name: string, content: string | Uint8Array): string {
  const file = join(temporaryFolder(t), name);
  writeFileSync(file, content);
  return file;
}

async function read(file: string) {
  const records = [];
  for await (const { line, value, error } of readRecords(file)) {
    if (error) throw error;
    records.push({ line, value });
  }
  return records;
}

const values = [{ text: 'Zürich "🙂" [1, {}]\n' }, { text: "x".repeat(300_000) }, { text: "" }];
const lines = values.map((value) => JSON.stringify(value)).join("\n");
const data = (name: string) => fileURLToPath(new URL(`../../../test/data/${name}`, import.meta.url));

test("JSON lines and arrays, plain, gzip and zstd, with a byte order mark, whatever the name", async (t) => {
  const expected = values.map((value, i) => ({ value, line: i + 1 }));
  const array = JSON.stringify(values);
  const pretty = JSON.stringify(values, null, 2);
  const contents: [string, string | Uint8Array, readonly number[]][] = [
    ["rows.jsonl", lines, [1, 2, 3]],
    ["rows.ndjson", `\n \n${lines}\n`, [3, 4, 5]],
    ["rows", `\uFEFF${lines}`, [1, 2, 3]],
    ["rows.jsonl.gz", gzipSync(lines), [1, 2, 3]],
    ["rows.zst", zstdCompressSync(lines), [1, 2, 3]],
    ["rows.json", array, [1, 1, 1]],
    ["pretty.json", `\uFEFF\n${pretty}\n\n`, [3, 6, 9]],
  ];
  for (const [name, content, at] of contents) {
    const records = await read(fileOf(t, name, content));
    assert.deepEqual(
      records,
      expected.map(({ value }, i) => ({ value, line: at[i] })),
      name,
    );
  }
  assert.deepEqual(await read(fileOf(t, "none.json", " [ ] ")), []);
});

test("JSON that is damaged is refused with line and column", async (t) => {
  const cases: [string, string, RegExp][] = [
    ["a.jsonl", '{"a": 1}\n{"a": 01}', /a\.jsonl:2:7: expected JSON: expected a value, got "01}"/],
    ["a.json", '[\n  {"a": 1},\n  {"a": tru}\n]', /a\.json:3:9: expected JSON: expected a value, got "tru}/],
    ["a.json", '[{"a": 1}, {"b" 2}]', /a\.json:1:17: expected JSON: expected ":", got "2}"/],
    ["a.json", '[{"a": 1},\n {"b": [1, 2', /a\.json:2:13: expected JSON: expected "," or "\]", got the end/],
    ["a.json", '[{"a": 1}\n', /a\.json:2:1: expected "," or "\]" of the array, got the end of the file/],
    ["a.json", '[{"a": 1}] {"b": 2}', /a\.json:1:12: expected nothing more after the array/],
    ["a.json", '[{"a": 1},,]', /a\.json:1:\d+: expected JSON: expected a value, got the end/],
    ["a.json", '{\n  "a": 1\n}', /a\.json:1:2: expected JSON: expected a key in quotes or "}", got the end/],
    ["a.json", "", /a\.json: expected rows, got an empty file/],
  ];
  for (const [name, content, message] of cases) {
    await assert.rejects(read(fileOf(t, name, content)), (error: { code: string; message: string }) => {
      assert.equal(error.code, "INVALID_ARGUMENT");
      assert.match(error.message, message);
      return true;
    });
  }
  const bytes = Buffer.concat([Buffer.from('{"a": 1}\n{"a": "'), Buffer.from([0xff]), Buffer.from('"}')]);
  await assert.rejects(read(fileOf(t, "latin.jsonl", bytes)), /latin\.jsonl:2: expected UTF-8/);
  await assert.rejects(read("/no/such.jsonl"), { code: "NOT_FOUND" });
});

test("a fault of JSON is where JSON.parse first cannot go on", () => {
  assert.equal(findJsonFault('{"a": [1, -2.5e+3, true, null, "\\u00e9\\n"], "b": {}}'), null);
  const check = fc.property(fc.jsonValue(), fc.nat(), (value, at) => {
    const text = JSON.stringify(value);
    assert.equal(findJsonFault(text), null);
    const end = at % text.length;
    let isWhole = true;
    try {
      JSON.parse(text.slice(0, end));
    } catch {
      isWhole = false;
    }
    assert.equal(findJsonFault(text.slice(0, end)) === null, isWhole);
  });
  fc.assert(check, { numRuns: 300 });
  assert.deepEqual(findJsonFault("[".repeat(100_000)), { offset: 100_000, expected: "a value or ]" });
});

test("a row of a gigabyte is refused with the limit, in bounded memory", async (t) => {
  for (const opening of ['{"text": "', '[{"text": "', "\n\n"]) {
    const file = join(temporaryFolder(t), "long.json");
    const fd = openSync(file, "w");
    writeSync(fd, opening);
    ftruncateSync(fd, 1 << 30); // a hole: zeros that take no space
    closeSync(fd);
    const before = process.memoryUsage.rss();
    await assert.rejects(read(file), /long\.json:\d: expected a row of at most 67108864 bytes/);
    assert.ok(process.memoryUsage.rss() - before < 400 << 20);
  }
});

test("compressed data that end too early or are damaged are refused, rows before that are given", async (t) => {
  const large = Array.from({ length: 2000 }, (_, i) => `{"text": "${i} ${Math.sin(i)}"}\n`).join("");
  for (const [name, bytes] of [
    ["a.jsonl.gz", gzipSync(large)],
    ["a.jsonl.zst", zstdCompressSync(large)],
  ] as const) {
    const cut = fileOf(t, name, bytes.subarray(0, bytes.length - 100));
    await assert.rejects(read(cut), {
      code: "INVALID_ARGUMENT",
      message: /a\.jsonl\.(gz|zst): expected whole (gzip|zstd) data/,
    });
    if (name.endsWith("zst")) continue; // without a checksum damage may go unseen
    const bad = Buffer.from(bytes);
    bad.fill(0x5a, 200, 400);
    await assert.rejects(read(fileOf(t, name, bad)), { code: "INVALID_ARGUMENT" });
  }
});

test("CSV and TSV: quotes, line breaks in values, lines of rows", async (t) => {
  const csv = '\uFEFFprompt,completion,weight\r\nhi,"a, ""b""\nc",2\r\n\r\nZürich,,\r\n';
  assert.deepEqual(await read(fileOf(t, "a.csv", csv)), [
    { line: 2, value: { prompt: "hi", completion: 'a, "b"\nc', weight: "2" } },
    { line: 5, value: { prompt: "Zürich", completion: "", weight: "" } },
  ]);
  assert.deepEqual(await read(fileOf(t, "a.tsv.gz", gzipSync("a\tb\n1\t2"))), [{ line: 2, value: { a: "1", b: "2" } }]);
});

test("CSV that is ragged, unclosed or not UTF-8 is refused with its line", async (t) => {
  const cases: [string | Uint8Array, RegExp][] = [
    ["a,b\n1,2\n3\n", /a\.csv:3: expected 2 values as there are columns, got 1/],
    ["a,b\n1,2\n3,4,5\n", /a\.csv:3: expected 2 values as there are columns, got 3/],
    ['a,b\n1,2\n3,"4\n5', /a\.csv:4: expected CSV: Quote Not Closed/],
    [Buffer.concat([Buffer.from("a,b\n1,2\n3,"), Buffer.from([0xe4]), Buffer.from("\n")]), /a\.csv:3: expected UTF-8/],
    ["", /expected rows, got an empty file/],
  ];
  for (const [content, message] of cases) {
    await assert.rejects(read(fileOf(t, "a.csv", content)), { code: "INVALID_ARGUMENT", message });
  }
});

test("Parquet as pyarrow writes it: lists of structs, integers of 64 bits, every compression, several row groups", async () => {
  const expected = JSON.parse(readFileSync(data("parquet/rows.json"), "utf8"));
  for (const codec of ["none", "snappy", "gzip", "brotli", "zstd", "lz4"]) {
    const records = await read(data(`parquet/${codec}.parquet`));
    assert.deepEqual(
      records,
      expected.map((value: object, i: number) => ({ value, line: i + 1 })),
      codec,
    );
  }
});

test("Parquet that is truncated or damaged is refused", async (t) => {
  const whole = readFileSync(data("parquet/zstd.parquet"));
  const refused = { code: "INVALID_ARGUMENT", message: /a\.parquet(:1)?: expected a whole Parquet/ };
  for (const length of [4, 100, whole.length - 1]) {
    await assert.rejects(read(fileOf(t, "a.parquet", whole.subarray(0, length))), refused);
  }
  const bad = Buffer.from(whole);
  bad.fill(0x5a, 4, 200);
  await assert.rejects(read(fileOf(t, "a.parquet", bad)), refused);
});

/** What a reader says of each record, in order. */
async function said(file: string): Promise<unknown[]> {
  const all: unknown[] = [];
  for await (const { value, error } of readRecords(file)) all.push(error ? error.message : value);
  return all;
}

test("a row or row group that cannot be read is said with its place, and the rest is read", async (t) => {
  const array = await said(fileOf(t, "a.json", '[{"a": 1},\n {"a": 01},\n {"a": 3}]'));
  assert.deepEqual([array[0], array[2]], [{ a: 1 }, { a: 3 }]);
  assert.match(String(array[1]), /a\.json:2:8: expected JSON: expected a value, got "01}"/);
  const csv = await said(fileOf(t, "a.csv", 'a,b\n1,2\n3,x"y"\n5,6\n'));
  assert.deepEqual(
    csv.filter((one) => typeof one !== "string"),
    [
      { a: "1", b: "2" },
      { a: "5", b: "6" },
    ],
  );
  assert.match(String(csv.find((one) => typeof one === "string")), /a\.csv:3: expected CSV: Invalid Opening Quote/);
  const bytes = Buffer.from(readFileSync(data("parquet/none.parquet")));
  bytes.fill(0xff, 4, 120);
  const parquet = await said(fileOf(t, "a.parquet", bytes));
  assert.match(String(parquet[0]), /a\.parquet:1: expected a whole Parquet row group: .* \(row group 1, rows 1 to 2\)/);
  assert.deepEqual(parquet.slice(1), JSON.parse(readFileSync(data("parquet/rows.json"), "utf8")).slice(2));
});

test("files of a split are told by words in their paths", (t) => {
  const paths = [
    "README.md",
    "data/train-00000-of-00002.parquet",
    "data/train-00001-of-00002.parquet",
    "data/test.jsonl.gz",
    "dev/a.csv",
    "dataset_infos.json",
  ];
  assert.deepEqual(filesOfSplit(paths, "train", "set"), paths.slice(1, 3));
  assert.deepEqual(filesOfSplit(paths, "validation", "set"), ["dev/a.csv"]);
  assert.deepEqual(filesOfSplit(paths, "eval", "set"), ["data/test.jsonl.gz"]);
  assert.deepEqual(filesOfSplit(["b.json", "a.json"], "train", "set"), ["a.json", "b.json"]);
  assert.throws(() => filesOfSplit(["constrained.json", "test.json"], "train", "set"), {
    code: "NOT_FOUND",
    message: /set: expected data files .* of split train, got files of test/,
  });
  const folder = temporaryFolder(t);
  mkdirSync(join(folder, "sub"));
  for (const name of ["train.jsonl", "sub/train2.csv", "sub/test.csv"]) writeFileSync(join(folder, name), "");
  assert.deepEqual(filesOfFolder(folder, "train"), [join(folder, "sub/train2.csv"), join(folder, "train.jsonl")]);
});
