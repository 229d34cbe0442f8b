"""The style sheet of the HTML report. A module, so that no installation can lack it."""

CSS = """
:root {
  color-scheme: light dark;
  --bg: #f5f6f8; --card: #ffffff; --ink: #161b22; --muted: #5a6472; --line: #e1e5ea;
  --soft: #f0f2f5; --accent: #33507e;
  --pass: #1a7145; --fail: #b3261e; --warn: #8a5a00; --inconclusive: #5b4b8a; --waived: #3d6374;
  --info: #5a6472; --allowed: #dcefe4; --shadow: 0 1px 2px rgb(20 27 34 / 5%);
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #0e1116; --card: #161b22; --ink: #e6eaf0; --muted: #98a3b1; --line: #2a313b;
    --soft: #1e242d; --accent: #9db8e6;
    --pass: #5fc38b; --fail: #ff8a80; --warn: #e5b454; --inconclusive: #b9a6f2; --waived: #8cc0d6;
    --info: #98a3b1; --allowed: #1c3a2a; --shadow: none;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--bg); color: var(--ink);
  font: 15px/1.55 Inter, ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto,
    "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%;
}
main, header, footer { max-width: 1080px; margin: 0 auto; padding: 0 24px; }
a { color: var(--accent); text-underline-offset: 2px; }
code, .mono {
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .86em; overflow-wrap: anywhere;
}
h1, h2, h3, p { margin: 0; }
h2 { font-size: 20px; line-height: 1.3; letter-spacing: -.01em; }
h3 { font-size: 15px; line-height: 1.4; font-weight: 600; }
.muted { color: var(--muted); }
.small { font-size: 13px; }

header.top {
  display: flex; flex-wrap: wrap; justify-content: space-between; gap: 6px 24px;
  align-items: baseline; padding-top: 28px; padding-bottom: 16px;
}
.brand { font-weight: 700; letter-spacing: -.02em; font-size: 17px; }
.brand span { font-weight: 400; color: var(--muted); letter-spacing: 0; margin-left: 8px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 14px; }
nav a { color: var(--muted); text-decoration: none; }
nav a:hover, nav a:focus-visible { color: var(--ink); text-decoration: underline; }

.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  box-shadow: var(--shadow); padding: 24px 28px;
}
section { margin-top: 44px; }
section > .lead { margin: 4px 0 16px; color: var(--muted); max-width: 68ch; }

.v-pass { --c: var(--pass); } .v-fail { --c: var(--fail); } .v-warn { --c: var(--warn); }
.v-inconclusive { --c: var(--inconclusive); } .v-waived { --c: var(--waived); }
.v-info { --c: var(--info); }
.icon { width: 1.15em; height: 1.15em; flex: none; vertical-align: -.2em; }
.icon .shape { fill: var(--c); }
.icon .glyph { fill: none; stroke: var(--card); stroke-width: 2; stroke-linecap: round;
  stroke-linejoin: round; }
.pill {
  display: inline-flex; align-items: center; gap: 6px; color: var(--c); font-weight: 600;
  font-size: 13px; white-space: nowrap; letter-spacing: .01em;
}

.hero { border-top: 5px solid var(--c); padding: 30px 32px 26px; }
.hero .verdict {
  display: flex; align-items: center; gap: 12px; color: var(--c); font-weight: 700;
  font-size: 22px; letter-spacing: .01em; line-height: 1.2;
}
.hero .verdict .icon { width: 34px; height: 34px; }
.hero h1 {
  margin-top: 14px; font-size: clamp(22px, 3.4vw, 31px); line-height: 1.24; font-weight: 650;
  letter-spacing: -.018em; max-width: 30em; text-wrap: balance; overflow-wrap: anywhere;
}
.hero .scope { margin-top: 10px; color: var(--muted); max-width: 68ch; }
.tally { display: flex; flex-wrap: wrap; gap: 8px; margin: 20px 0 0; padding: 0; list-style: none; }
.tally li {
  display: inline-flex; align-items: center; gap: 7px; border: 1px solid var(--line);
  border-radius: 999px; padding: 4px 13px 4px 9px; font-size: 14px;
}
.tally b { font-weight: 650; }
.tally .zero { opacity: .5; }
.facts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 14px 28px;
  margin: 24px 0 0; padding-top: 20px; border-top: 1px solid var(--line);
}
.facts dt { font-size: 12.5px; color: var(--muted); }
.facts dd { margin: 1px 0 0; overflow-wrap: anywhere; }
.attention { margin-top: 22px; padding: 16px 18px; background: var(--soft); border-radius: 8px; }
.attention ul { margin: 8px 0 0; padding: 0; list-style: none; display: grid; gap: 9px; }
.attention li { display: grid; grid-template-columns: auto 1fr; gap: 9px; }
.attention li .icon { margin-top: 3px; }

.subjects { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 16px; }
.subject { padding: 18px 22px; border-top: 3px solid var(--c); }
.subject .pill { margin-top: 2px; font-size: 15px; }
.subject dl { display: grid; grid-template-columns: auto 1fr; gap: 3px 14px; margin: 12px 0 0;
  font-size: 13.5px; }
.subject dt { color: var(--muted); } .subject dd { margin: 0; text-align: right; }

table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; }
.checks { padding: 6px 28px 10px; }
.checks thead th { font-size: 12.5px; color: var(--muted); font-weight: 500; padding: 14px 0 6px; }
.checks .num, .concepts .num { text-align: right; white-space: nowrap; padding-left: 18px; }
.checks .last { text-align: right; padding-left: 18px; width: 148px; }
.checks tbody.check tr:first-child > * { border-top: 1px solid var(--line); padding-top: 16px; }
.checks tbody.check tr:last-child > * { padding-bottom: 16px; }
.checks .name { padding-bottom: 4px; }
.checks .name .expect { font-weight: 400; color: var(--muted); font-size: 13.5px; }
.checks .name .expect span::before { content: " · "; }
.checks th[scope=row] { font-weight: 500; width: 150px; padding-right: 14px; }
.checks td, .checks th[scope=row] { padding-top: 4px; padding-bottom: 4px; vertical-align: middle; }
.checks td.figure { min-width: 200px; }
.checks .message td { padding-top: 0; font-size: 13.5px; color: var(--muted); }
.checks .message p { max-width: 84ch; border-left: 2px solid var(--c); padding-left: 10px; }
.checks .message p + p { margin-top: 4px; }
.tag { font-weight: 400; font-size: 12px; color: var(--muted); display: block; line-height: 1.2; }
details summary { cursor: pointer; color: var(--muted); font-size: 13px; width: fit-content; }
details[open] summary { margin-bottom: 6px; }

svg.interval { display: block; width: 100%; max-width: 400px; height: auto; }
svg text { font-size: 10.5px; fill: var(--muted); }
svg .allowed { fill: var(--allowed); }
svg .axis { stroke: var(--line); }
svg .limit { stroke: var(--ink); stroke-width: 1.25; stroke-dasharray: 3 2.5; }
svg .range { stroke: var(--c); stroke-width: 2.25; }
svg .decides { stroke: var(--c); stroke-width: 3; stroke-linecap: round; }
svg .estimate { fill: var(--c); stroke: var(--card); stroke-width: 1.5; }

.concepts { margin-top: 14px; }
.concepts .scroll { overflow-x: auto; }
.concepts table { margin-top: 10px; font-size: 13.5px; }
.concepts th, .concepts td { padding: 5px 0; border-top: 1px solid var(--line); }
.concepts thead th { border: 0; color: var(--muted); font-weight: 500; }
.concepts tbody th { font-weight: 400; }

.limitations ul { margin: 14px 0 0; padding-left: 20px; display: grid; gap: 6px; max-width: 80ch; }

.caution { display: flex; flex-wrap: wrap; gap: 12px 28px; align-items: center;
  justify-content: space-between; margin-bottom: 18px; padding: 16px 22px; }
.caution p { max-width: 60ch; }
.switch { display: inline-flex; gap: 9px; align-items: center; font-weight: 500; cursor: pointer; }
.switch input { width: 17px; height: 17px; accent-color: var(--accent); margin: 0; }
.grid + .grid { margin-top: 30px; }
.grid .rows { display: grid; gap: 14px; margin-top: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--w)), 1fr)); }
.cols-1 { --n: 1; --w: 150px; } .cols-2 { --n: 2; --w: 236px; } .cols-3 { --n: 3; --w: 312px; }
.cols-4 { --n: 4; --w: 420px; } .cols-5 { --n: 5; --w: 500px; } .cols-6 { --n: 6; --w: 600px; }
figure.row { margin: 0; padding: 12px 14px 10px; }
figure.row figcaption { font-size: 13px; line-height: 1.35; margin-bottom: 9px;
  overflow-wrap: anywhere; }
figure.row .pics { display: grid; grid-template-columns: repeat(var(--n), minmax(0, 1fr));
  gap: 8px; }
.pic { position: relative; display: block; cursor: pointer; }
.pic .frame { display: block; aspect-ratio: 1; overflow: hidden; border-radius: 7px;
  background: var(--soft); position: relative; }
.pic input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
  cursor: pointer; z-index: 1; }
.pic img { width: 100%; height: 100%; display: block; object-fit: cover; filter: blur(14px);
  transform: scale(1.12); }
.pic .reveal { position: absolute; inset: 0; display: grid; place-content: center; }
.pic .reveal span { font-size: 11.5px; background: rgb(16 20 26 / 62%); color: #fff;
  border-radius: 999px; padding: 2px 10px; }
.pic input:checked ~ .frame img, body:has(#reveal-all:checked) .pic img {
  filter: none; transform: none; }
.pic input:checked ~ .frame .reveal, body:has(#reveal-all:checked) .pic .reveal { display: none; }
.pic input:focus-visible ~ .frame { outline: 3px solid var(--accent); outline-offset: 2px; }
.pic .label { display: block; text-align: center; font-size: 12px; color: var(--muted);
  margin-top: 4px; overflow-wrap: anywhere; line-height: 1.3; }
.none { display: grid; place-content: center; height: 100%; font-size: 11.5px;
  color: var(--muted); text-align: center; }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr));
  gap: 16px; }
.charts .card { padding: 18px 20px 12px; }
svg.chart { display: block; width: 100%; height: auto; margin-top: 8px; }
svg.chart text { font-size: 11px; }
svg .rule { stroke: var(--line); }
svg .curve { fill: none; stroke: var(--accent); stroke-width: 1.75; stroke-linejoin: round; }
svg .end { fill: var(--accent); stroke: var(--card); stroke-width: 1.5; }
.training { margin-bottom: 16px; }
.training .facts { margin: 0; padding: 0; border: 0; }

.hashes th { font-weight: 400; color: var(--muted); padding: 5px 20px 5px 0; vertical-align: top;
  white-space: nowrap; }
.hashes td { padding: 5px 0; overflow-wrap: anywhere; }
.hashes tr + tr > * { border-top: 1px solid var(--line); }
.appendix .card + .card { margin-top: 16px; }
.appendix h3 { margin-bottom: 8px; }
.appendix p + p { margin-top: 8px; }
footer { margin-top: 40px; padding-bottom: 48px; color: var(--muted); font-size: 13px; }

@media (max-width: 720px) {
  main, header, footer { padding-left: 14px; padding-right: 14px; }
  .card { padding: 18px 16px; } .hero { padding: 22px 18px 20px; }
  .checks { padding: 2px 16px 6px; }
  .checks thead { display: none; }
  .checks, .checks tbody { display: block; }
  .checks tr { display: grid; grid-template-columns: 1fr 1fr auto; gap: 2px 12px;
    align-items: baseline; }
  .checks tbody.check tr:first-child { border-top: 1px solid var(--line); padding-top: 14px; }
  .checks tbody.check:first-of-type tr:first-child { border-top: 0; }
  .checks tbody.check tr:first-child > * { border: 0; padding-top: 0; }
  .checks .name, .checks .message td, .checks td.figure { grid-column: 1 / -1; }
  .checks th[scope=row] { grid-column: 1 / 3; grid-row: 1; width: auto; padding: 8px 0 0; }
  .checks td.last { grid-column: 3; grid-row: 1; width: auto; padding: 8px 0 0; }
  .checks td.figure { grid-row: 2; }
  .checks td.num { text-align: left; padding: 0; font-size: 13px; white-space: normal; }
  .checks td.num::before { content: attr(data-label) " "; color: var(--muted); }
  .checks td.num:last-of-type { grid-column: 3; }
  .hashes tr { display: block; padding: 6px 0; } .hashes th, .hashes td { display: block;
    border: 0 !important; padding: 0; }
  .hashes tr + tr { border-top: 1px solid var(--line); }
}

@media print {
  :root { color-scheme: light; --bg: #fff; --card: #fff; --ink: #111; --muted: #444;
    --line: #ccc; --soft: #f4f4f4; --accent: #33507e; --pass: #1a7145; --fail: #b3261e;
    --warn: #8a5a00; --inconclusive: #5b4b8a; --waived: #3d6374; --info: #5a6472;
    --allowed: #dcefe4; --shadow: none; }
  body { font-size: 10.5pt; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main, header, footer { max-width: none; padding: 0; }
  nav, .switch, .pic .reveal { display: none; }
  section { margin-top: 24px; }
  tbody.check, figure.row, .subject, .charts .card, .attention li { break-inside: avoid; }
  h2 { break-after: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
  summary { display: none; }
}
"""
