// The page of the studio, in this order: what it asks of the studio, drawing, recording, watching, filling in, guessing, tabs.

const TOKEN = new URLSearchParams(location.search).get("token") ?? "";
const SEND_EVERY_MS = 250, PATIENCE_MS = 1000, RECOVER_EVERY_MS = 2000, MOST_ROWS = 5000, WAYS = 5, KEY_STEP = 0.02;
const byId = id => document.getElementById(id);
const UNANSWERED = "the studio does not answer; start it again, in the same folder";
const say = (id, text, failed = false) => {
  byId(id).textContent = text;
  byId(id).classList.toggle("failed", failed);
};

// ---- What the page asks ----

class Refused extends Error {
  constructor(status, answer) {
    super(answer.error ?? `the studio answers ${status}`);
    this.status = status;
    this.answer = answer;
  }
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { "x-studio-token": TOKEN } });
  } catch {
    throw new Error(UNANSWERED);
  }
  if (!response.ok) throw new Refused(response.status, await response.json().catch(() => ({})));
  return response;
}

const post = (path, message = {}, options = {}) => request(path, { method: "POST", body: JSON.stringify(message), ...options });
const ask = async (path, message, options) => (await post(path, message, options)).json();

// Ask for actions that come a few at a time; hear of each batch.
async function askForMany(path, message, hear) {
  const reader = (await post(path, message)).body.pipeThrough(new TextDecoderStream()).getReader();
  const actions = [];
  for (let text = ""; ;) {
    const { done, value } = await reader.read().catch(() => { throw new Error(UNANSWERED); });
    text += value ?? "";
    const lines = text.split("\n");
    text = lines.pop();
    for (const line of lines) {
      const told = JSON.parse(line);
      if (told.error) throw new Error(told.error);
      actions.push(...told.actions);
      hear?.(told.done, told.of);
    }
    if (done && actions.length < message.num) throw new Error("the studio stopped before it was done");
    if (done) return actions;
  }
}

// Do work that takes a while: its button waits, its line says what goes on, or why not.
async function work(button, line, text, doIt) {
  const focused = document.activeElement === button;
  button.disabled = true; // and loses the focus
  say(line, text);
  try {
    await doIt();
  } catch (error) {
    say(line, error.message, true);
  } finally {
    button.disabled = false;
    if (focused && document.activeElement === document.body) button.focus({ preventScroll: true });
  }
}

// ---- Drawing ----

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);

// Return what to draw on, in CSS pixels, cleared.
function surface(canvas) {
  const { width, height } = canvas.getBoundingClientRect(), scale = devicePixelRatio;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.lineCap = pen.lineJoin = "round";
  return { pen, width, height };
}

// Draw the steps of an action up to `end`, thick where it is pressed; `head` marks where the pointer is then.
function drawAction({ pen, width, height }, action, name, end = action.length, head = false) {
  pen.strokeStyle = pen.fillStyle = colour(name);
  for (let step = 1; step < end; step++) {
    pen.lineWidth = action[step][2] && action[step - 1][2] ? 4 : 1;
    pen.beginPath();
    pen.moveTo(action[step - 1][0] * width, action[step - 1][1] * height);
    pen.lineTo(action[step][0] * width, action[step][1] * height);
    pen.stroke();
  }
  for (let step = 0; step < end; step++) {
    if (action[step][2] && !(step && action[step - 1][2])) dot(pen, action[step][0] * width, action[step][1] * height, 4);
  }
  if (head && end) {
    const [x, y, press] = action[end - 1];
    dot(pen, x * width, y * height, press ? 8 : 5);
  }
}

function dot(pen, x, y, radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}

// Replays actions on canvases at true speed, all together, one after the other and again.
class Replay {
  constructor(canvases) {
    this.canvases = canvases;
    this.lists = canvases.map(() => []);
    this.elapsed = this.drawn = 0; // ms
    this.paused = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.rate = 125;
    const frame = now => {
      if (this.canvases[0].offsetParent) this.draw(now);
      this.drawn = now;
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  show(lists, rate) {
    this.lists = lists;
    this.rate = rate;
    this.elapsed = this.paused ? this.turn - 1 : 0; // who starts with a pause sees a whole action
  }

  // How long an action is shown, ms: half a second longer than it is.
  get turn() {
    const length = this.lists.find(list => list.length)?.[0].length ?? 0;
    return 1000 * length / this.rate + 500;
  }

  draw(now) {
    if (!this.paused) this.elapsed += now - this.drawn;
    this.canvases.forEach((canvas, side) => {
      const list = this.lists[side], target = surface(canvas);
      if (!list.length) return;
      const action = list[Math.floor(this.elapsed / this.turn) % list.length];
      const end = 1 + Math.floor((this.elapsed % this.turn) * this.rate / 1000);
      drawAction(target, action, "ink", Math.min(action.length, end), true);
    });
  }
}

// ---- Recording ----

// Rows of one device on the way to the disk. What the studio has not said to have is in localStorage too, and outlives the page.
class Session {
  constructor(name, header, first = 0, rows = []) {
    Object.assign(this, { name, header, first, rows, sending: null, kept: true });
  }

  static begun(device, width, height) {
    const now = new Date().toISOString();
    const random = crypto.getRandomValues(new Uint32Array(1))[0].toString(16).padStart(8, "0");
    const name = `${now.slice(0, 10).replaceAll("-", "")}-${now.slice(11, 19).replaceAll(":", "")}-${random}`;
    const person = byId("person").value.replace(/[\p{Cc}\p{Cs}]/gu, "").trim() || "me"; // no tab, no half of a letter
    const session = new Session(name, { person, device, width, height });
    navigator.locks?.request(session.key, () => new Promise(() => {})).catch(() => {}); // held as long as the page lives: nobody else sends it
    return session;
  }

  static key(name) {
    return `studio ${TOKEN.slice(0, 8)} ${name}`;
  }

  get key() {
    return Session.key(this.name);
  }

  add(row) {
    this.rows.push(row);
    this.kept = false;
  }

  // Say whether all is kept: the browser's storage may be full, and rows are sent all the same.
  keep() {
    try {
      if (!this.rows.length) localStorage.removeItem(this.key);
      else if (!this.kept) localStorage.setItem(this.key, JSON.stringify({ header: this.header, first: this.first, rows: this.rows }));
      this.kept = true;
    } catch {
      this.kept = !this.rows.length;
    }
    return this.kept;
  }

  // Send what is not on disk, until all is; who asks meanwhile waits for the same.
  send() {
    return this.sending ??= this.sendAll().finally(() => { this.sending = null; });
  }

  async sendAll(options) {
    while (this.rows.length) {
      const first = this.first, rows = this.rows.slice(0, MOST_ROWS);
      try {
        const answer = await ask("rows", { session: this.name, header: this.header, first, rows }, options);
        this.acknowledge(first, answer.count);
      } catch (error) {
        if (error.status === 409) this.acknowledge(first, error.answer.count); // of a folder that was emptied, or of another page
        throw error;
      }
    }
  }

  acknowledge(first, count) {
    if (first !== this.first) return; // another answer came sooner
    this.rows.splice(0, Math.max(0, count - this.first));
    this.first = count;
    this.kept = false;
    this.keep();
  }
}

const deviceOf = event => event.pointerType || "mouse";

// Return what the browser keeps rows by; nothing where it keeps none.
function storedKeys() {
  try {
    return Object.keys(localStorage);
  } catch {
    return [];
  }
}

class Recorder {
  constructor(pad) {
    this.pad = pad;
    this.on = false;
    this.current = {}; // the session of each device
    this.inside = {}; // whether the way from the last row of each device was seen
    this.last = {}; // where that was
    this.pressing = {}; // the pointer of each device that is pressed: of several fingers, the first
    this.box = {}; // where the field lies
    this.flushing = null; // the sending that is under way, since `since`, ms
    this.earlier = false; // whether rows of an earlier page are said to wait
    this.ended = []; // sessions of before, with rows that are not on disk
    this.total = 0;
    for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel", "pointerenter", "pointerleave"])
      pad.addEventListener(kind, event => this.hear(event));
    pad.addEventListener("lostpointercapture", event => this.release(event));
    // A press within a selection of text would drag that.
    for (const kind of ["contextmenu", "dragstart"]) pad.addEventListener(kind, event => event.preventDefault());
    new ResizeObserver(() => this.fit()).observe(pad);
    addEventListener("pagehide", () => this.leave());
    addEventListener("beforeunload", event => { // rows that the browser does not keep would go with the page
      if (this.sessions.some(session => !session.keep())) event.preventDefault();
    });
    setInterval(() => this.flush(), SEND_EVERY_MS);
    setInterval(() => this.recover(), RECOVER_EVERY_MS);
    this.recover();
  }

  get sessions() {
    return [...Object.values(this.current), ...this.ended];
  }

  end() {
    this.ended = this.sessions.filter(session => session.rows.length);
    this.current = {};
    this.inside = {};
    surface(this.pad);
  }

  // Another size is another session; where the field moved under the pointer, the way was not seen.
  fit() {
    const { left, top, width, height } = this.pad.getBoundingClientRect(), before = this.box;
    this.box = { left, top, width, height };
    if (width !== before.width || height !== before.height) this.end();
    else if (left !== before.left || top !== before.top) this.inside = {};
  }

  release(event) {
    const device = deviceOf(event);
    if (this.pressing[device] === event.pointerId) delete this.pressing[device];
  }

  hear(event) {
    const device = deviceOf(event), pressing = this.pressing[device];
    if (!this.on || event.pointerId !== (pressing ?? event.pointerId)) return;
    if (event.type === "pointerenter" || event.type === "pointerleave") { // a finger leaves when it is lifted
      this.inside[device] = false;
      return;
    }
    if (device === "touch" && event.type !== "pointerdown" && pressing === undefined) return; // a finger that came second
    this.fit(); // the observer hears of another size later than the pointer does
    const cancelled = event.type === "pointercancel"; // which may tell no place
    if (cancelled && !this.inside[device]) return;
    if (event.type === "pointerdown") {
      this.pad.setPointerCapture(event.pointerId);
      this.pressing[device] = event.pointerId;
    }
    const session = this.current[device] ??= Session.begun(device, this.box.width, this.box.height);
    const parts = event.type === "pointermove" ? event.getCoalescedEvents?.() ?? [] : [];
    for (const part of parts.length ? parts : [event]) {
      const down = cancelled ? 0 : part.buttons & 1;
      const seen = this.inside[device] ? 1 : 0;
      const here = { x: part.clientX - this.box.left, y: part.clientY - this.box.top };
      const { x, y } = cancelled ? this.last[device] : here;
      session.add([part.timeStamp, x, y, down, down ? part.pressure : 0, seen].map(value => +value.toFixed(3)));
      this.total++;
      if (seen) this.trace(this.last[device], { x, y }, down);
      this.last[device] = { x, y };
      this.inside[device] = true;
    }
  }

  trace(from, to, down) {
    const pen = this.pad.getContext("2d");
    pen.strokeStyle = colour(down ? "accent" : "line");
    pen.lineWidth = down ? 3 : 1;
    pen.beginPath();
    pen.moveTo(from.x, from.y);
    pen.lineTo(to.x, to.y);
    pen.stroke();
  }

  get waiting() {
    return this.sessions.reduce((sum, session) => sum + session.rows.length, 0);
  }

  // Keep all rows and send them; who asks meanwhile waits for the same.
  flush() {
    for (const session of this.sessions) session.keep();
    if (this.flushing) {
      if (performance.now() - this.since > PATIENCE_MS) this.sayWaiting("the studio has not answered yet");
      return this.flushing;
    }
    if (this.sessions.every(session => !session.rows.length && session.kept)) return null;
    this.since = performance.now();
    return this.flushing = this.send().finally(() => { this.flushing = null; });
  }

  async send() {
    try {
      await Promise.all(this.sessions.map(session => session.send()));
      this.ended = this.ended.filter(session => session.rows.length);
      if (!this.waiting) say("recorded", `${this.total.toLocaleString()} rows recorded since the page was opened, all of them on disk.`);
      showSessions();
    } catch (error) {
      this.sayWaiting(error.message);
    }
  }

  sayWaiting(reason) {
    const full = this.sessions.some(session => !session.keep());
    const warning = full ? " The browser keeps no more for it: do not close this page" : "";
    say("recorded", `${this.waiting.toLocaleString()} rows wait in this page: ${reason}.${warning}`, true);
  }

  // The page goes: what is left is kept, and sent where the studio still listens.
  leave() {
    for (const session of this.sessions) {
      session.keep();
      session.sendAll({ keepalive: true }).catch(() => {});
    }
  }

  // Send what pages left behind that were closed while the studio did not answer.
  async recover() {
    const prefix = Session.key(""), own = this.sessions.map(session => session.key);
    // Over plain http from another machine a browser has no locks; what two pages send is written once.
    const alone = (key, doIt) => (navigator.locks ? navigator.locks.request(key, { ifAvailable: true }, doIt) : doIt(true));
    for (const key of storedKeys().filter(key => key.startsWith(prefix) && !own.includes(key))) {
      await alone(key, async lock => {
        const left = lock && localStorage.getItem(key);
        if (!left) return;
        const { header, first, rows } = JSON.parse(left);
        const session = new Session(key.slice(prefix.length), header, first, rows);
        session.keep = () => true; // it stays as it is, until all is on disk
        try {
          await session.send();
        } finally { // numbered anew where the session is gone from the disk
          delete session.keep;
          if (localStorage.getItem(key) === left) session.keep();
        }
        if (this.earlier) say("recorded", "Rows of an earlier page are on disk.");
        this.earlier = false;
        showSessions();
      }).catch(error => { // the next round tries again
        if (!error.status || error.status === 409) return;
        this.earlier = true;
        say("recorded", `Rows of an earlier page wait: ${error.message}.`, true);
      });
    }
  }
}

let asking = 0; // the timer of the next question

async function showSessions() {
  const askAgain = after => {
    clearTimeout(asking);
    asking = setTimeout(showSessions, after);
  };
  clearTimeout(asking);
  let state;
  try {
    state = await (await request("state")).json();
  } catch (error) {
    say("about", error.message, true);
    if (!error.status) askAgain(RECOVER_EVERY_MS);
    return;
  }
  byId("toggle").disabled = false; // this page may send what it records
  const rows = state.sessions.toReversed().map(({ name, rows, presses, seconds }) => {
    const row = document.createElement("tr");
    for (const text of [name, rows, presses, seconds.toFixed(1)]) row.insertCell().textContent = text;
    return row;
  });
  byId("sessions").tBodies[0].replaceChildren(...rows);
  byId("sessions").hidden = !rows.length;
  const model = state.model ? `model ${state.model.name}: ${state.model.state}` : "no model (start with --model to draw)";
  say("about", `Recordings are kept in ${state.folder}; ${model}.`);
  if (state.model?.state === "loading") askAgain(RECOVER_EVERY_MS / 2);
  rate = state.rate;
}

let rate = 125;
const recorder = new Recorder(byId("pad"));

byId("toggle").addEventListener("click", event => {
  recorder.on = !recorder.on;
  recorder.inside = {};
  event.target.setAttribute("aria-pressed", recorder.on);
  event.target.textContent = recorder.on ? "Stop recording" : "Start recording";
});
byId("person").addEventListener("input", event => {
  recorder.end(); // at once: a change is told only when a stroke has begun
  try {
    sessionStorage.setItem("studio person", event.target.value); // of this tab, over a reload
  } catch {} // where the browser keeps nothing
});
try {
  byId("person").value = sessionStorage.getItem("studio person") ?? byId("person").value;
} catch {}
byId("export").addEventListener("click", event => work(event.target, "made", "Making windows…", async () => {
  await recorder.flush(); // rows that wait are told there
  const made = await ask("export");
  const dropped = Object.entries(made.dropped).map(([reason, count]) => `${count} ${reason}`).join(", ") || "none";
  byId("exported").hidden = false;
  byId("exported").firstElementChild.textContent =
    `${made.train} windows to train on and ${made.val} held out, of ${made.rows} rows (dropped: ${dropped}), are in ${made.folder}.`;
  say("made", made.unread.map(fault => `Left out: ${fault}.`).join(" "), made.unread.length > 0);
  const folder = name => (/^[\w/.:-]*$/.test(made.folder) ? `${made.folder}/${name}` : `"${made.folder}/${name}"`);
  byId("exported").lastElementChild.textContent =
    `action-ddim inspect ${folder("train")}\n` +
    `action-ddim train --data_dir ${folder("train")} --val_data_dir ${folder(made.val ? "val" : "train")} --report_to none`;
}));
byId("download").addEventListener("click", event => work(event.target, "made", "Packing…", async () => {
  await recorder.flush(); // rows that wait are told there
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await (await request("sessions.zip")).blob());
  link.download = "sessions.zip";
  link.click();
  URL.revokeObjectURL(link.href);
  say("made", "The sessions are in sessions.zip; action-ddim import reads them.");
}));

// ---- Watching ----

const watching = new Replay([byId("real"), byId("drawn")]);
byId("others").addEventListener("click", event => work(event.target, "watched", "Drawing…", async () => {
  await showSessions(); // the studio may have been started again at another rate
  const lists = [[], []], faults = [];
  const hear = (done, of) => say("watched", `Drawing… ${done} of ${of}`);
  await ask("recorded", { num: 8 }).then(told => { lists[0] = told.actions; }, error => faults.push(error.message));
  await askForMany("draw", { num: 8 }, hear).then(drawn => { lists[1] = drawn; }, error => faults.push(error.message));
  watching.show(lists, rate);
  say("watched", faults.join("; ") || `${lists[0].length} real, ${lists[1].length} drawn, ${rate} steps a second.`, faults.length > 0);
}));
byId("pause").addEventListener("click", event => {
  watching.paused = !watching.paused;
  event.target.setAttribute("aria-pressed", watching.paused);
});
byId("pause").setAttribute("aria-pressed", watching.paused);

// ---- Filling in ----

const filling = { points: [], ways: [], cross: null };

function drawFilling() {
  const target = surface(byId("points")), { pen, width, height } = target;
  filling.ways.forEach((way, number) => drawAction(target, way, `way-${number % WAYS}`));
  pen.fillStyle = pen.strokeStyle = colour("ink");
  filling.points.forEach(([x, y], number) => {
    dot(pen, x * width, y * height, 6);
    pen.font = "14px system-ui";
    pen.fillText(number + 1, x * width + 9, y * height - 9);
  });
  if (filling.cross) {
    const [x, y] = filling.cross;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x * width - 12, y * height);
    pen.lineTo(x * width + 12, y * height);
    pen.moveTo(x * width, y * height - 12);
    pen.lineTo(x * width, y * height + 12);
    pen.stroke();
  }
}

function changePoints(points) {
  filling.points = points;
  filling.ways = [];
  say("filled", points.length ? `${points.length} points.` : "");
  drawFilling();
}

byId("points").addEventListener("pointerdown", event => {
  if (event.button) return;
  const box = event.target.getBoundingClientRect();
  filling.cross = null;
  changePoints([...filling.points, [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]]);
});
byId("points").addEventListener("keydown", event => {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const cross = filling.cross ?? [0.5, 0.5];
  if (way) filling.cross = cross.map((value, axis) => Math.min(1, Math.max(0, value + KEY_STEP * way[axis])));
  else if (event.key === "Enter" || event.key === " ") changePoints([...filling.points, [...cross]]);
  else if (event.key === "Backspace") changePoints(filling.points.slice(0, -1));
  else return;
  event.preventDefault();
  drawFilling();
});
byId("points").addEventListener("focus", event => {
  if (event.target.matches(":focus-visible")) filling.cross ??= [0.5, 0.5];
  drawFilling();
});
byId("clear").addEventListener("click", () => changePoints([]));
byId("ways").addEventListener("click", event => work(event.target, "filled", "Drawing…", async () => {
  if (!filling.points.length) throw new Error("put a point into the field first");
  const progress = byId("progress");
  progress.value = 0;
  progress.hidden = false;
  try {
    const message = { points: filling.points, drag: byId("drag").checked, num: WAYS };
    const ways = await askForMany("fill", message, done => { progress.value = done; });
    if (filling.points !== message.points) return; // which were changed meanwhile: these ways go through others
    filling.ways = ways;
    say("filled", `${ways.length} ways through ${message.points.length} points.`);
    drawFilling();
  } finally {
    progress.hidden = true;
  }
}));

// ---- Guessing ----

const guessing = new Replay([byId("left"), byId("right")]);
const score = { pair: null, right: 0, all: 0 };
const sides = document.querySelectorAll(".side");

byId("next").addEventListener("click", event => work(event.target, "guessed", "Drawing…", async () => {
  await showSessions();
  const told = await ask("pair");
  score.pair = told.pair;
  guessing.show([[told.left], [told.right]], rate);
  sides.forEach(side => { side.disabled = false; });
  say("guessed", "Which one is real?");
}));
sides.forEach(side => side.addEventListener("click", () => work(byId("next"), "guessed", "", async () => {
  sides.forEach(other => { other.disabled = true; });
  const told = await ask("guess", { pair: score.pair, side: side.dataset.side });
  score.all += 1;
  score.right += told.right;
  const verdict = told.right ? "Right" : `No: the ${told.real} one is real`;
  say("guessed", `${verdict}. ${score.right} of ${score.all} right; by chance it would be ${score.all / 2}.`);
  byId("next").disabled = false;
  byId("next").focus();
})));

// ---- Tabs ----

const tabs = [...document.querySelectorAll("[role=tab]")];

function select(tab) {
  for (const other of tabs) {
    const selected = other === tab;
    other.setAttribute("aria-selected", selected);
    other.tabIndex = selected ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = !selected;
  }
  if (tab.id === "tab-fill") drawFilling();
}

tabs.forEach((tab, number) => {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", event => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way) return;
    const other = tabs[(number + way + tabs.length) % tabs.length];
    other.focus();
    select(other);
  });
});
addEventListener("resize", drawFilling);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawFilling);
showSessions();
