// Where a JSON text stops being JSON, and what was expected there. V8's own messages name a position only for some
// errors. It is asked only about texts that JSON.parse has refused.

export interface JsonFault {
  /** In UTF-16 units from the beginning. */
  offset: number;
  expected: string;
}

const token =
  /[\t\n\r ]*(?:([{}[\],:])|("(?:[ !#-[\]-\uffff]|\\(?:["\\/bfnrt]|u[\da-fA-F]{4}))*")|(-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)(?![\w.]))/y;
const space = /[\t\n\r ]*/y;

type Expecting = "value" | "value or ]" | "key or }" | "key" | ":" | ", or ]" | ", or }" | "end";

const words: Record<Expecting, string> = {
  value: "a value",
  "value or ]": "a value or ]",
  "key or }": 'a key in quotes or "}"',
  key: "a key in quotes",
  ":": '":"',
  ", or ]": '"," or "]"',
  ", or }": '"," or "}"',
  end: "nothing more",
};

/** What comes after a whole value. */
const after = (open: readonly string[]): Expecting => {
  const inner = open.at(-1);
  return inner === undefined ? "end" : inner === "{" ? ", or }" : ", or ]";
};

/** What may come after one token, or null where that token may not come. */
function next(expecting: Expecting, mark: string, open: string[]): Expecting | null {
  const isValue = mark === '"' || mark === "0" || mark === "{" || mark === "[";
  if ((expecting === "value" || expecting === "value or ]") && isValue) {
    if (mark === "{" || mark === "[") open.push(mark);
    if (mark === "{") return "key or }";
    return mark === "[" ? "value or ]" : after(open);
  }
  if ((expecting === "key or }" || expecting === "key") && mark === '"') return ":";
  if (expecting === ":" && mark === ":") return "value";
  if (expecting === ", or }" && mark === ",") return "key";
  if (expecting === ", or ]" && mark === ",") return "value";
  const closes = mark === "}" || mark === "]" ? expecting.endsWith(mark) : false;
  if (!closes) return null;
  open.pop();
  return after(open);
}

/** Null where the text is JSON. */
export function findJsonFault(text: string): JsonFault | null {
  const open: string[] = [];
  let expecting: Expecting = "value";
  let at = 0;
  while (true) {
    space.lastIndex = at;
    space.test(text);
    const start = space.lastIndex;
    if (start === text.length) return expecting === "end" ? null : { offset: start, expected: words[expecting] };
    token.lastIndex = at;
    const found = token.exec(text);
    const mark = found?.[1] ?? (found?.[2] === undefined ? "0" : '"');
    const following: Expecting | null = found ? next(expecting, mark, open) : null;
    if (!following) return { offset: start, expected: words[expecting] };
    expecting = following;
    at = token.lastIndex;
  }
}
