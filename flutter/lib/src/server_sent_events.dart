import 'dart:async';

/// One server-sent event.
class ServerSentEvent {
  const ServerSentEvent({this.event = 'message', this.id, this.data = ''});

  final String event;
  final String? id;
  final String data;
}

/// Lines of a `text/event-stream` to events (https://html.spec.whatwg.org/multipage/server-sent-events.html).
///
/// Comments and events without data are left out.
Stream<ServerSentEvent> parseServerSentEvents(Stream<String> lines) async* {
  var event = '';
  String? id;
  final data = <String>[];
  await for (final String line in lines) {
    if (line.isEmpty) {
      if (data.isNotEmpty) {
        yield ServerSentEvent(
          event: event.isEmpty ? 'message' : event,
          id: id,
          data: data.join('\n'),
        );
      }
      event = '';
      id = null;
      data.clear();
      continue;
    }
    if (line.startsWith(':')) continue;
    final int colon = line.indexOf(':');
    final String name = colon < 0 ? line : line.substring(0, colon);
    var value = colon < 0 ? '' : line.substring(colon + 1);
    if (value.startsWith(' ')) value = value.substring(1);
    switch (name) {
      case 'event':
        event = value;
      case 'id':
        id = value;
      case 'data':
        data.add(value);
    }
  }
}
