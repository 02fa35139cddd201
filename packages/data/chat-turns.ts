// Dialogues as texts of which parts are trained. An assistant's turn is what the chat template adds to "everything before
// it, opened for an answer", which is exactly what serving asks for. Most templates only ever add: one text has all turns.
// Some rewrite what was said before (Qwen3 and DeepSeek-R1 leave out earlier thoughts, Mistral moves the system's words
// to the last question). There each turn that does not go on from the text before it gets a text of its own, as serving
// would have asked for it, with nothing before it trained: what TRL's and Axolotl's masks over one rendering train there
// is a turn as it looks later, which is never asked of the model. It knows no tokens.
import { NibbleError } from "#packages/errors";
import type { ChatTemplate, RenderOptions } from "./chat-template.ts";
import type { Conversation, TurnMessage } from "./conversations.ts";
import { type Place, rowError } from "./place.ts";

/** A piece of text, and whether it is trained. */
export interface Piece {
  text: string;
  trained: boolean;
}

interface Rendering {
  pieces: Piece[];
  /** All of the pieces. */
  text: string;
}

interface Turns {
  place: Place;
  isTrained: (turn: number) => boolean;
}

type Render = (messages: readonly TurnMessage[], options?: RenderOptions) => string;

/**
 * The texts of a dialogue, each in pieces that are tokenized apart.
 * @throws where the template refuses the messages, or writes a question otherwise once its answer follows.
 */
export function renderTurns({ messages, tools }: Conversation, template: ChatTemplate, turns: Turns): Piece[][] {
  const render: Render = (some, options = {}) => {
    try {
      return template.render(some, { ...options, tools });
    } catch (cause) {
      throw rowError(turns.place, NibbleError.from(cause).reason, { cause });
    }
  };
  const renderings: Rendering[] = [{ pieces: [], text: "" }];
  const add = (text: string, answerAt: number, trained: boolean) => {
    let last = renderings.at(-1) as Rendering;
    if (!text.startsWith(last.text) || answerAt < last.text.length) {
      last = { pieces: [], text: "" };
      renderings.push(last);
    }
    const before = text.slice(last.text.length, answerAt);
    if (before !== "") last.pieces.push({ text: before, trained: false });
    if (answerAt < text.length) last.pieces.push({ text: text.slice(answerAt), trained });
    last.text = text;
  };
  for (const [i, message] of messages.entries()) {
    if (message.role !== "assistant") continue;
    const text = render(messages.slice(0, i + 1));
    const start = i === 0 ? 0 : answerStart(text, messages.slice(0, i + 1), render, turns.place);
    const lost = lostCall(text.slice(start), message);
    if (lost !== undefined) {
      const expected = `the chat template to show the call of ${lost}, got an answer without it`;
      throw rowError(turns.place, `messages[${i}].tool_calls: expected ${expected}`);
    }
    add(text, start, turns.isTrained(i));
  }
  if (messages.at(-1)?.role !== "assistant") {
    const text = render(messages);
    // Words after the last answer are never trained: they are not worth a text of their own.
    if (text.startsWith((renderings.at(-1) as Rendering).text)) add(text, text.length, false);
  }
  return renderings.map(({ pieces }) => pieces);
}

/** The first tool whose call is not in the answer: templates that write calls may still drop some. */
function lostCall(answer: string, { tool_calls: calls = [] }: TurnMessage): string | undefined {
  return calls.map((call) => call.function.name).find((name) => !answer.includes(name));
}

/** Texts of which something is trained; the last one where there are none. */
export function trainedOf(renderings: readonly Piece[][]): readonly Piece[][] {
  const trained = renderings.filter((pieces) => pieces.some((piece) => piece.trained));
  return trained.length > 0 ? trained : renderings.slice(-1);
}

/**
 * Where the last message begins in `text`: after what serving gives. A template that opens an answer with more than it
 * writes for a given one (DeepSeek-R1's "<think>") has it begin where the two part.
 */
function answerStart(text: string, messages: readonly TurnMessage[], render: Render, place: Place): number {
  const before = messages.slice(0, -1);
  const opened = render(before, { addGenerationPrompt: true });
  if (text.startsWith(opened)) return opened.length;
  const closed = render(before);
  let same = 0;
  while (same < opened.length && opened[same] === text[same]) same++;
  if (same < closed.length) {
    const message = `messages[${before.length}]: the chat template changes the question when the answer follows, so what is trained cannot be told apart; use prompt and completion`;
    throw rowError(place, message);
  }
  // The answer may begin as the opening goes on: "<" of "<b>", of "<tool_call>" and of "<think>".
  const words = messages.at(-1)?.content.trim().slice(0, 32) ?? "";
  const openMark = text.slice(closed.length, same).match(/[<[][^<>[\]]*$/)?.[0].length ?? 0;
  const answer = words === "" ? same - openMark : text.indexOf(words, closed.length);
  return answer >= closed.length && answer < same ? answer : same;
}
