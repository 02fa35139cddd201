// The form in which a chat template shows an assistant's calls of tools. Templates differ, and what does not suit one is left
// out without a word: DeepSeek-R1's shows calls only of a message whose content is none, and joins their arguments to text;
// others refuse none, and want an object. So the template is asked, with a call that can be found in what it writes.
import type { ChatMessage, ToolCallMessage } from "./chat-template.ts";

export interface CallForm {
  /** The content of a message that has calls and no words. */
  noWords: "" | null;
  arguments: "object" | "text";
  /** Calls after words are a message of their own, as they are left out otherwise. */
  wordsApart: boolean;
}

/** A message as a template gets it. */
export type TemplateMessage = Omit<ChatMessage, "content" | "tool_calls"> & {
  content: string | null;
  tool_calls?: readonly unknown[];
};

type Render = (messages: readonly TemplateMessage[]) => string;

/** Of the forms that show calls the first is taken; with it most templates get what transformers would give them. */
const forms: readonly Omit<CallForm, "wordsApart">[] = [
  { noWords: "", arguments: "object" },
  { noWords: null, arguments: "object" },
  { noWords: "", arguments: "text" },
  { noWords: null, arguments: "text" },
];

const [name, value] = ["tool_that_is_asked_for", "argument_that_is_given"];
/** Mistral's templates want an id of nine letters and digits. */
const call: ToolCallMessage = { id: "call00001", type: "function", function: { name, arguments: { value } } };

/** @returns null where no form shows a call. A template that refuses every probe gets the usual form, and can refuse what comes. */
export function findCallForm(render: Render): CallForm | null {
  let refusedAll = true;
  const shows = (content: string, form: CallForm) => {
    const asked = { role: "user", content: "Question" };
    try {
      const text = render([asked, ...inForm({ role: "assistant", content, tool_calls: [call] }, form)]);
      refusedAll = false;
      return text.includes(name) && text.includes(value);
    } catch {
      return false;
    }
  };
  const together = forms.map((form) => ({ ...form, wordsApart: false }));
  const found = together.find((form) => shows("", form));
  if (found) return { ...found, wordsApart: !shows("Words", found) };
  return refusedAll ? (together[0] as CallForm) : null;
}

/** The message, or its words and its calls as two. */
export function inForm(message: ChatMessage, form: CallForm): TemplateMessage[] {
  const { tool_calls: calls, ...said } = message;
  if (calls === undefined) return [message];
  const given = form.arguments === "object" ? calls : calls.map(withArgumentsAsText);
  if (message.content === "") return [{ ...said, content: form.noWords, tool_calls: given }];
  if (!form.wordsApart) return [{ ...said, tool_calls: given }];
  return [said, { ...said, content: form.noWords, tool_calls: given }];
}

function withArgumentsAsText({ function: { name, arguments: args }, ...rest }: ToolCallMessage): unknown {
  return { ...rest, function: { name, arguments: JSON.stringify(args) } };
}
