// Asking the gateway again and again: every second, less often while it does not answer, not at all while nobody looks.

const EVERY_MS = 1000;
const LONGEST_MS = 15000;
const PATIENCE_MS = 5000;

export async function ask(path) {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return response.json();
}

/** look: an async function that asks and shows. failed: is told what went wrong and in how many ms it looks again. */
export class Watch {
  constructor(look, failed) {
    this.look = look;
    this.failed = failed;
    this.isPaused = false;
    this.failures = 0;
    this.timer = 0;
    this.isLooking = false;
    document.addEventListener("visibilitychange", () => this.now());
  }

  get isWatching() {
    return !this.isPaused && !document.hidden;
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    this.now();
  }

  /** Look at once, if anybody wants to see it. */
  now() {
    clearTimeout(this.timer);
    if (this.isWatching) this.turn();
  }

  async turn() {
    if (this.isLooking) return;
    this.isLooking = true;
    let wait = EVERY_MS;
    try {
      await this.look();
      this.failures = 0;
    } catch (error) {
      this.failures += 1;
      wait = Math.min(LONGEST_MS, EVERY_MS * 2 ** (this.failures - 1));
      this.failed(error, wait);
    } finally {
      this.isLooking = false;
    }
    clearTimeout(this.timer);
    if (this.isWatching) this.timer = setTimeout(() => this.turn(), wait);
  }
}
