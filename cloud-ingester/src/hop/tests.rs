pub(crate) mod kit;

mod flow; // what goes into bronze comes out of silver and gold

mod again; // ends midway, replays, refreshes

mod models; // windows of every kind, users' models, watermarks

mod messages;
mod splits; // however a stream is cut, the tables are the same
