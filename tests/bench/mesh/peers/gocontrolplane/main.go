// A go-control-plane server that is told on its standard input what to serve, and says on its
// standard output how long it took until all streams had acknowledged it.
//
// Usage: gocontrolplane SOCKET. Each line in is a JSON object: the version, a file with all
// resources (a DiscoveryResponse), and how many streams shall acknowledge which types; without a file
// it waits for what is served already. Each line out has the milliseconds from the ready resources to the last acknowledgement, and what the process
// had used and sent until then.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/proto"
)

type order struct {
	Version string
	File    string
	Streams int
	Types   []string
}

type outcome struct {
	Milliseconds float64 `json:"milliseconds"`
	Processor    float64 `json:"processor_seconds"`
	Bytes        int64   `json:"bytes"`
}

// acks counts the acknowledgements that are waited for.
type acks struct {
	mutex sync.Mutex
	left  int
	types map[string]bool
	done  chan struct{}
}

func (a *acks) expect(count int, types []string) chan struct{} {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.left, a.done, a.types = count*len(types), make(chan struct{}), map[string]bool{}
	for _, each := range types {
		a.types[each] = true
	}
	return a.done
}

func (a *acks) heard(request *discovery.DeltaDiscoveryRequest) {
	if request.GetResponseNonce() == "" {
		return
	}
	if request.GetErrorDetail() != nil {
		panic(request.GetErrorDetail().GetMessage())
	}
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if !a.types[request.GetTypeUrl()] {
		return
	}
	a.left--
	if a.left == 0 {
		close(a.done)
	}
}

// sent counts the bytes of the messages that go out.
type sent struct{ bytes atomic.Int64 }

func (s *sent) HandleRPC(_ context.Context, event stats.RPCStats) {
	if payload, ok := event.(*stats.OutPayload); ok {
		s.bytes.Add(int64(payload.Length))
	}
}
func (s *sent) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (s *sent) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (s *sent) HandleConn(context.Context, stats.ConnStats)                       {}

// oneNode serves all streams the same.
type oneNode struct{}

func (oneNode) ID(*core.Node) string { return "front" }

func main() {
	snapshots := cache.NewSnapshotCache(true, oneNode{}, nil)
	waiting, counted := &acks{types: map[string]bool{}}, &sent{}
	callbacks := server.CallbackFuncs{
		StreamDeltaRequestFunc: func(_ int64, request *discovery.DeltaDiscoveryRequest) error {
			waiting.heard(request)
			return nil
		},
	}
	ads := server.NewServer(context.Background(), snapshots, callbacks)
	serving := grpc.NewServer(grpc.StatsHandler(counted))
	discovery.RegisterAggregatedDiscoveryServiceServer(serving, ads)
	listener, err := net.Listen("unix", os.Args[1])
	check(err)
	go func() { check(serving.Serve(listener)) }()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var told order
		check(json.Unmarshal(lines.Bytes(), &told))
		var resources map[resource.Type][]types.Resource
		if told.File != "" {
			resources = read(told.File)
		}
		began := time.Now()
		done := waiting.expect(told.Streams, told.Types)
		if told.File != "" {
			snapshot, err := cache.NewSnapshot(told.Version, resources)
			check(err)
			check(snapshots.SetSnapshot(context.Background(), "front", snapshot))
		}
		if told.Streams > 0 {
			<-done
		}
		found := outcome{float64(time.Since(began).Microseconds()) / 1e3, used(), counted.bytes.Load()}
		line, err := json.Marshal(found)
		check(err)
		fmt.Println(string(line))
	}
}

func read(file string) map[resource.Type][]types.Resource {
	data, err := os.ReadFile(file)
	check(err)
	var all discovery.DiscoveryResponse
	check(proto.Unmarshal(data, &all))
	found := map[resource.Type][]types.Resource{}
	for _, each := range all.GetResources() {
		message, err := each.UnmarshalNew()
		check(err)
		found[each.GetTypeUrl()] = append(found[each.GetTypeUrl()], message)
	}
	return found
}

func used() float64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
