// Chat templates: a model folder's Jinja text that turns messages into the prompt its model was made
// for. The engine is @huggingface/jinja; this file checks the messages.
import { Template } from "@huggingface/jinja";
import { NibbleError } from "#packages/errors";
import { type CallForm, findCallForm, inForm, type TemplateMessage } from "./call-form.ts";

const op = "chat_template";

export interface ChatMessage {
  role: string;
  content: string;
  /** Calls of tools, in the form that templates know; only an assistant's message has them. */
  tool_calls?: readonly ToolCallMessage[];
  /** The call that a tool's message answers. */
  tool_call_id?: string;
  /** The tool that a tool's message comes from. */
  name?: string;
}

export interface ToolCallMessage {
  id?: string;
  type: "function";
  function: { name: string; arguments: Record<string, unknown> };
}

/** A tool that the model may call, in the form that templates know. */
export interface ToolDefinition {
  type: "function";
  /** `parameters` is a JSON Schema. */
  function: { name: string; description: string; parameters: Record<string, unknown> };
}

export interface RenderOptions {
  /** End with the opening of an assistant turn, for the model to go on. Default false. */
  addGenerationPrompt?: boolean;
  /** Default: none. */
  tools?: readonly ToolDefinition[];
}

/** Special tokens by the names that templates use. */
export type TemplateTokens = Readonly<Record<string, string | null>>;

export class ChatTemplate {
  readonly source: string;
  private readonly template: Template;
  private readonly tokens: TemplateTokens;
  private knownCallForm: CallForm | null | undefined;

  constructor(source: string, tokens: TemplateTokens = {}) {
    this.source = source;
    this.tokens = Object.fromEntries(Object.entries(tokens).filter(([, token]) => token !== null));
    try {
      this.template = new Template(source);
    } catch (thrown) {
      throw templateError("cannot be parsed", thrown);
    }
  }

  /** Whether it shows tools to the model. */
  get knowsTools(): boolean {
    return /\btools\b/.test(this.source);
  }

  /** Null: it does not show the model which tools it called. */
  private get callForm(): CallForm | null {
    if (this.knownCallForm === undefined) this.knownCallForm = findCallForm((messages) => this.rendered(messages, {}));
    return this.knownCallForm;
  }

  /** The prompt text; it holds its own special tokens, so encode it with addSpecialTokens false. */
  render(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    const { tools = [] } = options;
    if (messages.length === 0) {
      throw new NibbleError("messages: expected at least one, got none", { code: "INVALID_ARGUMENT", op });
    }
    if (tools.length > 0 && !this.knowsTools) {
      const message = "tools: expected none, since the chat template knows no tools";
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
    }
    const given = this.inCallForm(messages);
    try {
      return this.rendered(given, options);
    } catch (thrown) {
      throw templateError("refuses these messages", thrown, { field: "messages" });
    }
  }

  private inCallForm(messages: readonly ChatMessage[]): readonly TemplateMessage[] {
    const calling = messages.findIndex((message) => message.tool_calls !== undefined);
    if (calling < 0) return messages;
    const form = this.callForm;
    if (form !== null) return messages.flatMap((message) => inForm(message, form));
    const message = `messages[${calling}].tool_calls: expected none, since the chat template shows no calls of tools`;
    throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
  }

  private rendered(messages: readonly TemplateMessage[], { addGenerationPrompt = false, tools = [] }: RenderOptions) {
    // Templates tell "no tools" by the variable's absence.
    const given = tools.length > 0 ? { tools } : {};
    return this.template.render({ ...this.tokens, ...given, messages, add_generation_prompt: addGenerationPrompt });
  }
}

function templateError(what: string, thrown: unknown, details: Record<string, string> = {}): NibbleError {
  const reason = thrown instanceof Error ? thrown.message : String(thrown);
  const message = `the chat template ${what}: ${reason}`;
  return new NibbleError(message, { code: "INVALID_ARGUMENT", op, details, cause: thrown });
}
